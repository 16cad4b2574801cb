"""Files, models and run folders that nothing can come of: each ends in one line, and nothing is lost."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset
from lessons import one_line
from test_parameters import refuse_in_a_process
from test_rows import jsonl, lines

from conftest import SMOKE, write_rows
from suite.errors import UserError
from suite.names import cache_folder
from suite.resolve import find_model
from suite.settings import Settings, parameters_cell
from suite.start import check_values, read_parameters

GOOD = "text,label\n" + "".join(f"review {n},{'bad' if n % 3 else 'good'}\n" for n in range(90))
LINES = "\n".join(json.dumps({"text": f"{n}", "label": "ab"[n % 2]}) for n in range(90))
TWO = ["a", "b"] * 45
TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


def table(**columns):
    return pd.DataFrame({"text": [f"review {n}" for n in range(90)], **columns})


def rows(ending, **columns):
    return {f"rows{ending}": partial(write_rows, table(**columns))}


def csv(*first, encoding="utf-8", **options):
    return {"a.csv": lines(*first, **options).encode(encoding)}


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def write(folder, files):
    """Write contents, or call functions, below a folder, for a model over the packaged one."""
    path = folder / next(iter(files)).split("/")[0]
    if path.name == "model":
        shutil.copytree(find_model(Settings().model_name), path)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        if callable(content):
            content(file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ONE = "text\na\n"
LONG = [{name: GOOD + "a,b,c,d\n"} for name in ("rows.csv", "rows/train.csv")]
SAVED = {"saved": Dataset.from_pandas(table(label=TWO)).save_to_disk}
ARROW = "saved/data-00000-of-00001.arrow"
ONES = [rows(".parquet", label=[1.0] * 90), rows(".csv", text=["same"] * 90, label=[1, 2] * 45)]
LOOP = {"link.csv": lambda file: file.symlink_to(file)}
LINKS = [LOOP, {"link.csv": lambda file: file.symlink_to("gone.csv")}]
BYTES = [{"rows.csv": b"\x89PNG\r\n\x1a\n\x00\x00"}, {"rows.csv": GOOD.encode("utf-16-le")}]
# what has to be said, and of what: files, or the value of the parameter
FILES = {
    "cannot be read": [
        {"rows.csv": "\n\n\n"},
        {"rows.csv": b"\xef\xbb\xbf"},
        {"rows.jsonl": LINES[:-20]},
        {"rows.json": "[" * 100_000},
        {"rows.parquet": GOOD},
        {"rows.parquet": table(label=TWO).to_parquet()[:999]},
        {**SAVED, ARROW: Path.unlink},
        {**SAVED, ARROW: cut},
        {"saved/state.json": "{"},
        {"saved/state.json": '{"_data_files": [{"filename": "../etc"}]}'},
    ],
    "cannot be read: row 3:": [{"a.jsonl": jsonl("a", "b") + "\n{\n"}],
    "row 1: Extra data; each line holds one record alone": [
        {"a.jsonl": jsonl("a", "b").replace("\n", ",\n")}
    ],
    "cannot be read: it is empty": [{"rows.csv": ""}],
    "row 91 (line 92) has 4 fields separated by ',', the header 2; a text": LONG,
    "row 1 (line 2) has 3 fields separated by ',', the header 2": [
        csv("one, two,good"),
        csv("a,x,good", "b,y,bad", count=0),
    ],
    "row 2 (line 3) has 1 field separated by ',', the header 2": [csv("x,good", "y")],
    "row 1 (line 2) has 1 field": [csv("x\ry,good")],
    "row 2: a quote opens there": [csv('"a, x",good', '"a,good', "b,bad", "c,good", 'd",bad')],
    "row 1: its quotes do not end where a field ends": [csv('"a" b,good', '"c, d",bad')],
    "it has no header line: put one above it": [csv(header="this is a first row,1")],
    "its header stands in line 3; remove the lines above it": [
        {"a.csv": "Survey, 2024\n\n" + lines("x,good")}
    ],
    "its header stands in line 2": [{"a.csv": "# made by hand\n" + lines("x;good", sep=";")}],
    "(line 18), but 4 other": [
        {"a.csv": lines("déjà,good", *["où,bad"] * 3).encode() + b"caf\xe9,bad\n"}
    ],
    "set the parameter encoding": [
        csv("это хороший фильм,good", "очень плохо,bad", encoding="cp1251"),
        csv("这家餐厅值得再来,good", "服务冷淡很难吃啊,bad", encoding="gb18030"),
        csv("この映画は最高です,good", "つまらない,bad", encoding="shift-jis"),
    ],
    "pandas.read_excel('a.xlsx').to_csv('a' + '.csv', index=False)": [{"a.xlsx": b"PK\x03\x04"}],
    "unpack it: python -m zipfile -e a.zip a": [{"a.zip": b"PK\x03\x04"}],
    "unpack it: bunzip2 a.csv.bz2": [{"a.csv.bz2": b"BZh"}],
    "holds bytes that are no text; if it is UTF-16, save it as UTF-8": BYTES,
    "not in UTF-8 (line 2), as JSON has to be": [{"rows.jsonl": b'{}\n"\xe9"\n'}],
    "not in UTF-8, as JSON has to be": [{"rows.jsonl": LINES.encode("utf-16")}],
    "must end in one of .csv, .tsv": [{"rows.xlsx": b"PK\x03\x04"}, {"rows": GOOD}],
    "has no column 'text'": [{"rows.csv": "fine,1\ndull,0\n"}, {"rows.json": "[]"}],
    "has no column 'text'; it has fine film, dull": [csv("x,good", header="fine film,dull")],
    "row 1 is no record": [{"rows.jsonl": "1\n2\n3\n"}, {"rows.json": '"hello"'}],
    "has no column 'text'; it has a, b": [{"rows.csv": "a,b\n1,2\n"}],
    "has no column 'label'; it has text": [{"rows.csv": ONE}, {"rows/train.csv": ONE}],
    "two columns named 'text'": [{"rows.csv": "text,text,label\na,b,1\n"}],
    "no row has a text and a value in the column 'label'": [
        {"rows.csv": "text,label\n"},
        rows(".csv", label=[None] * 90),
        rows(".csv", label=["  "] * 90),
        rows(".csv", text=[None] * 90, label=TWO),
        rows(".csv", text=["   "] * 90, label=TWO),
    ],
    "column 'label' holds 'good' in every row": [rows(".csv", label=["good"] * 90)],
    "column 'label' holds 'a' in every row": [{"a.json": '{"text": "x", "label": "a"}'}],
    "row 1, column 'label' holds 1.5; a class is a word": [{"a.jsonl": jsonl(1.5, 2.5, 1.5, 2.5)}],
    "column 'label' holds '1' in every row": ONES,
    "row 90, column 'label': the class 'c' occurs": [rows(".csv", label=[*TWO[:-1], "c"])],
    "there alone, and 1 more": [rows(".csv", label=[*TWO[:-2], "c", "d"])],
    "there alone, and 89 more": [rows(".csv", label=[f"c{n}" for n in range(90)])],
    "test, row 3, column 'label': the class 'c' of the split 'test' does not occur in 'train'": [
        {"r/train.csv": GOOD, "r/test.csv": "text,label\nw,good\nx,bad\ny,c\nz,c\n"}
    ],
    "rows.csv, row 89, column 'label' holds 3.5; a class is a word or a whole number": [
        rows(".csv", label=[1, 2] * 44 + [3.5] * 2)
    ],
    "a class is a word or a whole number": [rows(".parquet", label=[1.0, float("inf")] * 45)],
    "row 8, column 'label': the class 'x' occurs there alone": [
        rows(".jsonl", label=[0] * 7 + ["x"] + [1] * 82)
    ],
    "holds numbers, such as 0, and no texts": [rows(".csv", text=range(90), label=TWO)],
    "holds a list; for several labels per text see": [rows(".jsonl", label=[TWO] * 90)],
    "column 'label' holds a record": [rows(".jsonl", label=[{"a": 1}] * 90)],
    "row 1, column 'text' holds a list": [rows(".jsonl", text=[["a"]] * 90, label=TWO)],
    "column 'text' holds a record": [rows(".jsonl", text=[{"a": 1}] * 90, label=TWO)],
    "num_train is 32, but": [{"rows.csv": "text,label\na,x\nb,y\nc,x\nd,y\n"}],
    "has 11 rows for it": [{"rows.csv": "".join(GOOD.splitlines(True)[:17])}],
    "is no file and no folder": [{"pipe.csv": os.mkfifo}, "/dev/zero"],
    "nothing lies at": [*LINKS, "./rows", "https://a.org/a.csv", "~no-such-user/rows.csv"],
    "holds no file that ends in .csv": [{"rows/notes.txt": "hello"}, {"empty": Path.mkdir}],
    "rows' has no split 'train'; it has test": [{"rows/test.csv": GOOD}],
    "holds more than 10000 files": ["/"],
    "must have at most 1000 characters": ["a" * 5000, "/" + "a/" * 3000 + "b.csv"],
}
CONFIG, WEIGHTS = "model/config.json", "model/model.safetensors"
MODELS = {
    "holds no config.json": [{CONFIG: Path.unlink}],
    "config.json is not one of a model": [{CONFIG: '{"model_type": '}, {CONFIG: "[]"}],
    "says no model_type": [{CONFIG: "{}"}],
    "is of type 'made-up'": [{CONFIG: '{"model_type": "made-up"}'}],
    "code that comes with a model is never run": [{CONFIG: '{"auto_map": {}, "model_type": "x"}'}],
    "holds no model.safetensors": [{WEIGHTS: Path.unlink, "model/pytorch_model.bin": b"\x80\x04."}],
    "model.safetensors is not whole": [
        {WEIGHTS: cut},
        {WEIGHTS: ""},
        {WEIGHTS: "version https://"},
    ],
    "holds no tokenizer": [{f"model/{name}": Path.unlink for name in TOKENIZER}],
    "tokenizer.json is not one of a tokenizer": [{"model/tokenizer.json": "{"}],
    "is a file; give a folder": [{"m.csv": GOOD}, "/dev/null"],
    "nothing lies at": ["m" * 300],
}
RUNS = {
    "run_dir must be a folder, but": [__file__],
    "cannot be made": ["/dev/null", f"{__file__}/run", "/proc/no/run", LOOP, "~no-such-user/run"],
    "cannot be made: File name too long": ["/tmp/" + "r" * 300],
    "cannot be written": ["/proc"],
}
TABLE = [
    pytest.param(parameter, case, said, id=f"{parameter}: {said} {number}")
    for parameter, messages in (("dataset_name", FILES), ("model_name", MODELS), ("run_dir", RUNS))
    for said, cases in messages.items()
    for number, case in enumerate(cases)
]


def value_of(case, folder):
    return case if isinstance(case, str) else str(write(folder, case))


def content_of(folder):
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return sorted((str(path), at.st_size, at.st_mtime_ns) for path, at in found)


@pytest.mark.parametrize("parameter, case, said", TABLE)
def test_bad_input_is_refused_in_one_line_and_nothing_changes(
    parameter, case, said, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"run/metrics.json": '{"mine": {}}'})
    (tmp_path / "input").mkdir()
    given = {"run_dir": str(tmp_path / "run"), parameter: value_of(case, tmp_path / "input")}
    before = content_of(tmp_path)
    with pytest.raises(UserError, check=one_line(said)) as caught:
        read_parameters({**vars(Settings()), **SMOKE, **given, "In": [parameters_cell(), "…"]})
    assert len(str(caught.value)) < 1000
    assert content_of(tmp_path) == before
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_cache_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", f"{__file__}/cache")
    with pytest.raises(UserError, match="the cache .* cannot be written to: .*; set HF_HOME to"):
        cache_folder()
    monkeypatch.undo()
    monkeypatch.setattr("os.access", lambda *asked: False)
    with pytest.raises(UserError, match="cannot be written to: Permission denied"):
        cache_folder()


def test_nothing_heavy_is_loaded_to_refuse_a_file(tmp_path):
    given = []
    for number, case in enumerate(sum(FILES.values(), [])):
        (tmp_path / f"{number}").mkdir()
        given.append({**SMOKE, "dataset_name": value_of(case, tmp_path / f"{number}")})
    refuse_in_a_process(given, "torch", "evaluate", "sklearn")


@pytest.mark.parametrize("name", ["rows.csv", "model/README.md"])
def test_the_same_input_without_a_fault_is_taken(name, tmp_path):
    path = str(write(tmp_path, {name: GOOD}))
    values = {**SMOKE, "run_dir": str(tmp_path / "run"), "num_validation": 11, "num_test": 14}
    assert check_values({**values, "dataset_name" if path.endswith(".csv") else "model_name": path})
