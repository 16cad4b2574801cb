"""Files, models and run folders that nothing can come of: each ends in one line, and nothing is lost."""

import json
import os
import shutil
import socket
import struct
from contextlib import chdir

import pandas as pd
import pytest
from datasets import Dataset
from test_parameters import refuse_in_a_process

from conftest import SMOKE, write_rows
from suite.errors import UserError
from suite.resolve import find_model
from suite.settings import Settings
from suite.start import check_values, read_parameters

GOOD = "text,label\n" + "".join(f"review {n},{'bad' if n % 3 else 'good'}\n" for n in range(90))
LINES = "\n".join(json.dumps({"text": f"{n}", "label": "ab"[n % 2]}) for n in range(90))
TWO = ["a", "b"] * 45
NO_CLASS = "a class is a word or a whole number"
TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


def rows(ending, **columns):
    return {f"rows{ending}": pd.DataFrame({"text": [f"review {n}" for n in range(90)], **columns})}


def write(folder, files):
    """Write files below a folder, those of a model over the packaged one; return what lies there."""
    path = folder / next(iter(files)).split("/")[0]
    if path.name == "model":
        shutil.copytree(find_model(Settings().model_name), path)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        if content is None:
            file.unlink()
        elif isinstance(content, pd.DataFrame):
            write_rows(content, file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cut(file):
    os.truncate(file, file.stat().st_size // 2)
    return file


def half_the_weights(folder):
    return cut(write(folder, {"model/README.md": ""}) / "model.safetensors").parent


def saved(folder):
    rows = {"text": [f"review {n}" for n in range(90)], "label": TWO}
    Dataset.from_dict(rows).save_to_disk(folder / "saved")
    (arrow,) = (folder / "saved").glob("*.arrow")
    return arrow


def saved_without_its_rows(folder):
    arrow = saved(folder)
    arrow.unlink()
    return arrow.parent


def pipe(folder):
    os.mkfifo(folder / "pipe.csv")
    return folder / "pipe.csv"


def a_socket(folder):
    with chdir(folder), socket.socket(socket.AF_UNIX) as opened:  # its path has to be short
        opened.bind("socket.csv")
    return folder / "socket.csv"


def link(folder, target):
    (folder / "link.csv").symlink_to(folder / target)
    return folder / "link.csv"


def empty_folder(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


# what has to be said -> {name of a case: its files, a maker of them, or the value of the parameter}
FILES = {
    "cannot be read": {
        "blank": {"rows.csv": "\n\n\n"},
        "only a mark": {"rows.csv": b"\xef\xbb\xbf"},
        "open quote": {"rows.csv": GOOD + '"never closed,good\n'},
        "half a line": {"rows.jsonl": LINES[:-20]},
        "deep": {"rows.json": "[" * 100_000},
        "no Parquet": {"rows.parquet": GOOD},
        "empty Parquet": {"rows.parquet": ""},
        "cut Parquet": lambda folder: cut(write(folder, rows(".parquet", label=TWO))),
        "folder of kinds": {"rows/train.csv": GOOD, "rows/test.jsonl": LINES},
        "saved, no rows": saved_without_its_rows,
        "saved, cut short": lambda folder: cut(saved(folder)).parent,
        "saved, nonsense": {"saved/state.json": "{"},
        "saved, elsewhere": {"saved/state.json": '{"_data_files": [{"filename": "../etc"}]}'},
    },
    "cannot be read: No columns to parse": {"empty": {"rows.csv": ""}},
    "Expected 2 fields in line 92, saw 4": {
        "more fields": {"rows.csv": GOOD + "a,b,c,d\n"},
        "more fields in a folder": {"rows/train.csv": GOOD + "a,b,c,d\n"},
    },
    "holds bytes that are no text": {
        "nulls": {"rows.csv": b"\x00\x01\x02" * 99},
        "picture": {"rows.csv": b"\x89PNG\r\n\x1a\n\x00\x00"},
        "zip": {"rows.csv": b"PK\x03\x04\x00\x00"},
    },
    "if it is UTF-16, save it as UTF-8": {"no mark": {"rows.csv": GOOD.encode("utf-16-le")}},
    "not in UTF-8 (line 2), as JSON has to be": {"Latin-1": {"rows.jsonl": b'{}\n"\xe9"\n'}},
    "not in UTF-8, as JSON has to be": {"UTF-16": {"rows.jsonl": LINES.encode("utf-16")}},
    "must end in one of .csv, .tsv": {
        "spreadsheet": {"rows.xlsx": b"PK\x03\x04"},
        "pickle": {"rows.pkl": b"\x80\x04."},
        "script": {"rows.py": "import os"},
        "no ending": {"rows": GOOD},
    },
    "has no column 'text'": {
        "no header": {"rows.csv": "fine,1\ndull,0\n"},
        "no record": {"rows.jsonl": "1\n2\n3\n"},
        "a word": {"rows.json": '"hello"'},
        "empty array": {"rows.json": "[]"},
    },
    "has no column 'text'; it has a, b": {"other columns": {"rows.csv": "a,b\n1,2\n"}},
    "has no column 'label'; it has text": {
        "one column": {"rows.csv": "text\na\nb\n"},
        "one column in a folder": {"rows/train.csv": "text\na\nb\n"},
    },
    "two columns named 'text'": {"twice the column": {"rows.csv": "text,text,label\na,b,1\n"}},
    "no row has a text and a value in the column 'label'": {
        "header alone": {"rows.csv": "text,label\n"},
        "no label": rows(".csv", label=[None] * 90),
        "blank labels": rows(".csv", label=["  "] * 90),
        "no text": rows(".csv", text=[None] * 90, label=TWO),
        "blank texts": rows(".csv", text=["   "] * 90, label=TWO),
    },
    "column 'label' holds 'good' in every row": {"a word": rows(".csv", label=["good"] * 90)},
    "column 'label' holds '1' in every row": {
        "a number": rows(".parquet", label=[1.0] * 90),
        "the same text": rows(".csv", text=["same"] * 90, label=[1, 2] * 45),
    },
    "row 90, column 'label': the class 'c' occurs": {"class": rows(".csv", label=[*TWO[:-1], "c"])},
    "there alone, and 1 more": {"classes once": rows(".csv", label=[*TWO[:-2], "c", "d"])},
    "there alone, and 89 more": {"each row": rows(".csv", label=[f"c{n}" for n in range(90)])},
    "test, row 3, column 'label': the class 'c' of the split 'test' does not occur in 'train'": {
        "new class": {"r/train.csv": GOOD, "r/test.csv": "text,label\nw,good\nx,bad\ny,c\nz,c\n"},
    },
    f"rows.csv, row 89, column 'label' holds 3.5; {NO_CLASS}": {
        "fractions": rows(".csv", label=[1, 2] * 44 + [3.5] * 2),
    },
    NO_CLASS: {"infinite": rows(".parquet", label=[1.0, float("inf")] * 45)},
    "row 8, column 'label' holds 'x', but most rows hold numbers; write all classes alike": {
        "words and numbers": rows(".jsonl", label=[0] * 7 + ["x"] + [1] * 82),
    },
    "holds numbers, such as 0, and no texts": {"text": rows(".csv", text=range(90), label=TWO)},
    "holds a list; for several labels per text see": {"label": rows(".jsonl", label=[TWO] * 90)},
    "column 'label' holds a record": {"label": rows(".jsonl", label=[{"a": 1}] * 90)},
    "row 1, column 'text' holds a list": {"text": rows(".jsonl", text=[["a"]] * 90, label=TWO)},
    "column 'text' holds a record": {"text": rows(".jsonl", text=[{"a": 1}] * 90, label=TWO)},
    "num_train is 32, but": {"four rows": {"rows.csv": "text,label\na,x\nb,y\nc,x\nd,y\n"}},
    "has 11 rows for it": {"sixteen rows": {"rows.csv": "".join(GOOD.splitlines(True)[:17])}},
    "is no file and no folder": {"pipe": pipe, "socket": a_socket, "device": "/dev/zero"},
    "nothing lies at": {
        "broken link": lambda folder: link(folder, "gone.csv"),
        "link to itself": lambda folder: link(folder, "link.csv"),
        "gone folder": "./rows",
        "web address": "https://example.org/a.csv",
        "nobody's home": "~no-such-user/rows.csv",
    },
    "holds no file that ends in .csv": {
        "folder of notes": {"rows/notes.txt": "hello"},
        "empty folder": empty_folder,
    },
    "rows' has no split 'train'; it has test": {"no train": {"rows/test.csv": GOOD}},
    "differ in kind, encoding or separator": {
        "other separators": {"rows/train.csv": GOOD, "rows/test.csv": GOOD.replace(",", ";")},
        "other encodings": {"rows/train.csv": GOOD.encode("utf-16"), "rows/test.csv": GOOD},
    },
    "holds more than 10000 files": {"the whole disk": "/"},
    "must have at most 1000 characters": {
        "long name": "a" * 5000,
        "long path": "/" + "a/" * 3000 + "b.csv",
    },
}
MODELS = {  # files that take the place of those of the packaged model; None takes one away
    "holds no config.json": {"no config": {"model/config.json": None}},
    "config.json is not one of a model": {
        "empty config": {"model/config.json": ""},
        "half a config": {"model/config.json": '{"model_type": '},
        "a list": {"model/config.json": "[]"},
    },
    "says no model_type": {"no type": {"model/config.json": "{}"}},
    "is of type 'made-up'": {"unknown": {"model/config.json": '{"model_type": "made-up"}'}},
    "; code that comes with a model is never run": {
        "own code": {"model/config.json": '{"auto_map": {}, "model_type": "made-up"}'},
    },
    "holds no model.safetensors": {
        "no weights": {"model/model.safetensors": None},
        "pickle": {"model/model.safetensors": None, "model/pytorch_model.bin": b"\x80\x04cos\n."},
    },
    "model.safetensors is not whole": {
        "half the weights": half_the_weights,
        "empty weights": {"model/model.safetensors": ""},
        "huge header": {"model/model.safetensors": struct.pack("<Q", 2**60) + b"{}"},
        "a web page": {"model/model.safetensors": "<!DOCTYPE html><html></html>"},
        "a pointer": {"model/model.safetensors": "version https://git-lfs.github.com/spec/v1"},
    },
    "holds no tokenizer": {"no tokenizer": {f"model/{name}": None for name in TOKENIZER}},
    "tokenizer.json is not one of a tokenizer": {"half": {"model/tokenizer.json": "{"}},
    "is a file; give a folder": {"a file": {"m.csv": GOOD}, "a device": "/dev/null"},
    "nothing lies at": {"long name": "m" * 300},
}
RUN_FOLDERS = {
    "run_dir must be a folder, but": {"a file": {"file": "mine"}},
    "run_dir": {"a device": "/dev/null"},
    "cannot be made": {
        "below a file": lambda folder: write(folder, {"file": "mine"}) / "run",
        "nowhere": "/proc/nowhere/run",
        "long name": lambda folder: folder / ("r" * 300),
        "link to itself": lambda folder: link(folder, "link.csv"),
        "nobody's home": "~no-such-user/run",
    },
    "cannot be written": {"read-only": "/proc"},
}
TABLE = [
    pytest.param(parameter, case, said, id=f"{parameter}: {name}")
    for parameter, messages in zip(
        ("dataset_name", "model_name", "run_dir"), (FILES, MODELS, RUN_FOLDERS), strict=True
    )
    for said, cases in messages.items()
    for name, case in cases.items()
]


def value_of(case, folder):
    """Return the value of a parameter, when what the case needs lies in the folder."""
    if isinstance(case, dict):
        return str(write(folder, case))
    return case if isinstance(case, str) else str(case(folder))


def content_of(folder):
    """What lies in a folder: names, sizes and times of change."""
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    )


@pytest.mark.parametrize("parameter, case, said", TABLE)
def test_bad_input_is_refused_in_one_line_and_nothing_changes(
    parameter, case, said, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"run/metrics.json": '{"mine": {}}'})
    (tmp_path / "input").mkdir()
    given = {"run_dir": str(tmp_path / "run"), parameter: value_of(case, tmp_path / "input")}
    before = content_of(tmp_path)
    with pytest.raises(UserError) as caught:
        read_parameters({**vars(Settings()), **SMOKE, **given})
    message = str(caught.value)
    assert said in message
    assert "\n" not in message and len(message) < 1000
    assert content_of(tmp_path) == before
    assert "Traceback" not in "".join(capfd.readouterr())


def test_nothing_heavy_is_loaded_to_refuse_a_file(tmp_path, root):
    given = []
    for number, (parameter, case, _) in enumerate(case.values for case in TABLE):
        folder = tmp_path / str(number)
        folder.mkdir()
        if parameter == "dataset_name":
            given.append({**SMOKE, parameter: value_of(case, folder)})
    refuse_in_a_process(given, ("torch", "evaluate", "sklearn"), root)


@pytest.mark.parametrize("name", ["rows.csv", "model/README.md"])
def test_the_same_input_without_a_fault_is_taken(name, tmp_path):
    path = str(write(tmp_path, {name: GOOD}))
    values = {**SMOKE, "run_dir": str(tmp_path / "run"), "num_validation": 11, "num_eval": 14}
    assert check_values({**values, "dataset_name" if path.endswith(".csv") else "model_name": path})
