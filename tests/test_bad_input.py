"""Files, models and run folders that nothing can come of: each ends in one line, and nothing is lost."""

import json
import os
import shutil
import socket
import struct
from pathlib import Path
from time import perf_counter

import pandas as pd
import pytest

from conftest import SMOKE
from helpers.errors import UserError
from helpers.parameters import Settings, check_values, read_parameters
from helpers.sources import find_model

SECONDS = 5

GOOD = "text,label\n" + "".join(f"review {n},{'bad' if n % 3 else 'good'}\n" for n in range(90))
LINES = [
    json.dumps({"text": f"review {n}", "label": "bad" if n % 3 else "good"}) for n in range(90)
]


def text_file(name, content, encoding="utf-8"):
    """Return a maker of a file with this content, str or bytes, in an empty folder."""

    def make(folder):
        content_bytes = content.encode(encoding) if isinstance(content, str) else content
        (folder / name).write_bytes(content_bytes)
        return {"dataset_name": str(folder / name)}

    return make


def table_file(name, **columns):
    def make(folder):
        rows = pd.DataFrame({"text": [f"review {n}" for n in range(90)], **columns})
        if name.endswith(".parquet"):
            rows.to_parquet(folder / name)
        elif name.endswith(".jsonl"):
            rows.to_json(folder / name, orient="records", lines=True)
        else:
            rows.to_csv(folder / name, index=False)
        return {"dataset_name": str(folder / name)}

    return make


def parquet(folder):
    rows = pd.DataFrame({"text": [f"review {n}" for n in range(90)], "label": ["a", "b"] * 45})
    rows.to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def cut_parquet(folder):
    file = parquet(folder)
    os.truncate(file, file.stat().st_size // 2)
    return {"dataset_name": str(file)}


def fifo(folder):
    os.mkfifo(folder / "pipe.csv")
    return {"dataset_name": str(folder / "pipe.csv")}


def broken_link(folder):
    (folder / "link.csv").symlink_to(folder / "gone.csv")
    return {"dataset_name": str(folder / "link.csv")}


def link_to_itself(folder):
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    return {"dataset_name": str(folder / "loop.csv")}


def a_socket(folder):
    os.chdir(folder)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("s.csv")
    return {"dataset_name": "s.csv"}


def folder_with(**files):
    def make(folder):
        for name, content in files.items():
            file = folder / "rows" / name.replace("__", ".")
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        return {"dataset_name": str(folder / "rows")}

    return make


def saved_folder_without_its_rows(folder):
    from datasets import Dataset

    Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(folder / "saved")
    for file in (folder / "saved").glob("*.arrow"):
        file.unlink()
    return {"dataset_name": str(folder / "saved")}


def saved_folder_cut_short(folder):
    from datasets import Dataset

    rows = {"text": [f"review {n}" for n in range(90)], "label": [0, 1] * 45}
    Dataset.from_dict(rows).save_to_disk(folder / "saved")
    for file in (folder / "saved").glob("*.arrow"):
        os.truncate(file, file.stat().st_size // 2)
    return {"dataset_name": str(folder / "saved")}


def saved_folder_with_nonsense(folder):
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text("{")
    return {"dataset_name": str(folder / "saved")}


def saved_folder_that_points_elsewhere(folder):
    (folder / "saved").mkdir()
    state = {"_data_files": [{"filename": "../../../etc/passwd"}]}
    (folder / "saved" / "state.json").write_text(json.dumps(state))
    return {"dataset_name": str(folder / "saved")}


FILES = [
    ("empty", text_file("rows.csv", ""), "cannot be read: No columns"),
    ("blank", text_file("rows.csv", "\n\n\n"), "cannot be read"),
    ("only a mark", text_file("rows.csv", b"\xef\xbb\xbf"), "cannot be read"),
    ("header alone", text_file("rows.csv", "text,label\n"), "no row has a text and a value"),
    ("one column", text_file("rows.csv", "text\na\nb\n"), "has no column 'label'; it has text"),
    ("other columns", text_file("rows.csv", "a,b\n1,2\n"), "has no column 'text'; it has a, b"),
    ("no header", text_file("rows.csv", "fine,1\ndull,0\n"), "has no column 'text'"),
    (
        "twice the column",
        text_file("rows.csv", "text,text,label\na,b,1\n"),
        "two columns named 'text'",
    ),
    ("more fields", text_file("rows.csv", GOOD + "a,b,c,d\n"), "cannot be read"),
    ("open quote", text_file("rows.csv", GOOD + '"never closed,good\n'), "cannot be read"),
    ("nulls", text_file("rows.csv", b"\x00\x01\x02" * 99), "holds bytes that are no text"),
    (
        "picture",
        text_file("rows.csv", b"\x89PNG\r\n\x1a\n\x00\x00"),
        "holds bytes that are no text",
    ),
    ("zip", text_file("rows.csv", b"PK\x03\x04\x00\x00"), "holds bytes that are no text"),
    ("spreadsheet", text_file("rows.xlsx", b"PK\x03\x04"), "must end in one of .csv, .tsv"),
    ("pickle", text_file("rows.pkl", b"\x80\x04."), "must end in one of .csv, .tsv"),
    ("script", text_file("rows.py", "import os"), "must end in one of .csv, .tsv"),
    ("no ending", text_file("rows", GOOD), "must end in one of .csv, .tsv"),
    ("one class", table_file("rows.csv", label=["good"] * 90), "'good' in every row"),
    (
        "class once",
        table_file("rows.csv", label=["a"] * 45 + ["b"] * 44 + ["c"]),
        "row 90, column 'label': the class 'c' occurs there alone",
    ),
    ("no label", table_file("rows.csv", label=[None] * 90), "no row has a text and a value"),
    ("blank labels", table_file("rows.csv", label=["  "] * 90), "no row has a text and a value"),
    (
        "fractions",
        table_file("rows.csv", label=[0.5, 1.5] * 45),
        "a class is a word or a whole number",
    ),
    (
        "words and numbers",
        table_file("rows.jsonl", label=[1, "good"] * 45),
        "write all classes alike",
    ),
    (
        "infinite",
        table_file("rows.parquet", label=[1.0, float("inf")] * 45),
        "a class is a word or a whole number",
    ),
    (
        "every row a class",
        table_file("rows.csv", label=[f"c{n}" for n in range(90)]),
        "occurs there alone",
    ),
    (
        "numbers as text",
        table_file("rows.csv", text=range(90), label=["a", "b"] * 45),
        "holds numbers",
    ),
    (
        "the same text",
        table_file("rows.csv", text=["same"] * 90, label=["a", "b"] * 45),
        "in every row",
    ),
    (
        "blank texts",
        table_file("rows.csv", text=["   "] * 90, label=["a", "b"] * 45),
        "no row has a text",
    ),
    (
        "lists",
        table_file("rows.jsonl", label=[["a", "b"]] * 90),
        "holds a list; for several labels per text see chapter 10",
    ),
    ("records", table_file("rows.jsonl", label=[{"a": 1}] * 90), "holds a record"),
    (
        "text as a list",
        table_file("rows.jsonl", text=[["a"]] * 90, label=["a", "b"] * 45),
        "holds a list",
    ),
    ("too few rows", text_file("rows.csv", "text,label\na,x\nb,y\nc,x\nd,y\n"), "num_train is 32"),
    ("half a line", text_file("rows.jsonl", "\n".join(LINES)[:-20]), "cannot be read"),
    ("no record", text_file("rows.jsonl", "1\n2\n3\n"), "has no column 'text'"),
    ("a word", text_file("rows.json", '"hello"'), "has no column 'text'"),
    ("empty array", text_file("rows.json", "[]"), "has no column 'text'"),
    ("deep", text_file("rows.json", "[" * 100_000), "cannot be read"),
    ("JSON in UTF-16", text_file("rows.jsonl", "\n".join(LINES), "utf-16"), "as JSON has to be"),
    ("no Parquet", text_file("rows.parquet", "text,label\n"), "cannot be read"),
    ("empty Parquet", text_file("rows.parquet", b""), "cannot be read"),
    ("cut Parquet", cut_parquet, "cannot be read"),
    ("pipe", fifo, "is no file and no folder"),
    ("socket", a_socket, "is no file and no folder"),
    ("device", lambda folder: {"dataset_name": "/dev/zero"}, "is no file and no folder"),
    ("broken link", broken_link, "nothing lies at"),
    ("link to itself", link_to_itself, "nothing lies at"),
    ("empty folder", folder_with(), "nothing lies at"),
    ("folder of notes", folder_with(notes__txt="hello"), "holds no file that ends in"),
    ("no train", folder_with(test__csv=GOOD), "no split 'train'"),
    (
        "folder of kinds",
        folder_with(train__csv=GOOD, test__jsonl="\n".join(LINES)),
        "cannot be read",
    ),
    (
        "other separators",
        folder_with(train__csv=GOOD, test__csv=GOOD.replace(",", ";")),
        "differ in kind",
    ),
    ("saved, no rows", saved_folder_without_its_rows, "cannot be read"),
    ("saved, cut short", saved_folder_cut_short, "cannot be read"),
    ("saved, nonsense", saved_folder_with_nonsense, "cannot be read"),
    ("saved, elsewhere", saved_folder_that_points_elsewhere, "cannot be read"),
    (
        "web address",
        lambda folder: {"dataset_name": "https://example.org/a.csv"},
        "nothing lies at",
    ),
    ("the whole disk", lambda folder: {"dataset_name": "/"}, "holds more than 10000 files"),
    ("long name", lambda folder: {"dataset_name": "a" * 5000}, "must have at most 1000 characters"),
    (
        "long path",
        lambda folder: {"dataset_name": "/" + "a/" * 3000 + "b.csv"},
        "must have at most",
    ),
    ("nobody's home", lambda folder: {"dataset_name": "~no-such-user/rows.csv"}, "nothing lies at"),
]


def model_folder(**changes):
    """Return a maker of a copy of the packaged model; None takes a file away, bytes replace it."""

    def make(folder):
        shutil.copytree(find_model(Settings().model_name), folder / "model")
        for name, content in changes.items():
            file = folder / "model" / name.replace("__", ".")
            if content is None:
                file.unlink()
            elif isinstance(content, bytes):
                file.write_bytes(content)
            else:
                values = json.loads(file.read_text())
                file.write_text(json.dumps({**values, **content}))
        return {"model_name": str(folder / "model")}

    return make


def pickled_weights(folder):
    given = model_folder(model__safetensors=None)(folder)
    (folder / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR.")
    return given


def half_weights(folder):
    given = model_folder()(folder)
    file = folder / "model" / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    return given


def huge_header(folder):
    return model_folder(model__safetensors=struct.pack("<Q", 2**60) + b"{}")(folder)


MODELS = [
    ("no config", model_folder(config__json=None), "holds no config.json"),
    ("empty config", model_folder(config__json=b""), "config.json is not one of a model"),
    (
        "half a config",
        model_folder(config__json=b'{"model_type": '),
        "config.json is not one of a model",
    ),
    ("a list", model_folder(config__json=b"[]"), "config.json is not one of a model"),
    ("no type", model_folder(config__json=b"{}"), "says no model_type"),
    ("unknown type", model_folder(config__json={"model_type": "made-up"}), "of type 'made-up'"),
    (
        "own code",
        model_folder(
            config__json={"auto_map": {"AutoModel": "evil.Evil"}, "model_type": "made-up"}
        ),
        "of type 'made-up'",
    ),
    ("pickle", pickled_weights, "holds no model.safetensors"),
    ("no weights", model_folder(model__safetensors=None), "holds no model.safetensors"),
    ("half the weights", half_weights, "model.safetensors is not whole"),
    ("empty weights", model_folder(model__safetensors=b""), "model.safetensors is not whole"),
    ("huge header", huge_header, "model.safetensors is not whole"),
    (
        "a web page",
        model_folder(model__safetensors=b"<!DOCTYPE html><html></html>"),
        "model.safetensors is not whole",
    ),
    (
        "a pointer",
        model_folder(model__safetensors=b"version https://git-lfs.github.com/spec/v1\noid"),
        "model.safetensors is not whole",
    ),
    (
        "no tokenizer",
        model_folder(tokenizer__json=None, vocab__txt=None, tokenizer_config__json=None),
        "holds no tokenizer",
    ),
    (
        "broken tokenizer",
        model_folder(tokenizer__json=b"{"),
        "tokenizer.json is not one of a tokenizer",
    ),
    (
        "a file",
        lambda folder: {"model_name": str(text_file("m.csv", GOOD)(folder)["dataset_name"])},
        "is a file; give a folder",
    ),
    ("a device", lambda folder: {"model_name": "/dev/null"}, "is a file; give a folder"),
    ("long name", lambda folder: {"model_name": "m" * 300}, "nothing lies at"),
]


def run_dir(path):
    return lambda folder: {"run_dir": str(path(folder) if callable(path) else path)}


def a_file(folder):
    (folder / "file").write_text("mine")
    return folder / "file"


RUN_FOLDERS = [
    ("a file", run_dir(a_file), "is a file"),
    ("below a file", run_dir(lambda folder: a_file(folder) / "run"), "cannot be made"),
    ("a device", run_dir("/dev/null"), "run_dir"),
    ("nowhere", run_dir("/proc/nowhere/run"), "cannot be made"),
    ("read-only", run_dir("/proc"), "cannot be written"),
    ("long name", run_dir(lambda folder: folder / ("r" * 300)), "cannot be made"),
    (
        "link to itself",
        run_dir(lambda folder: Path(link_to_itself(folder)["dataset_name"])),
        "cannot be made",
    ),
    ("nobody's home", run_dir("~no-such-user/run"), "cannot be made"),
]

TABLE = [
    pytest.param(make, said, id=f"{kind}: {name}")
    for kind, table in (("file", FILES), ("model", MODELS), ("run folder", RUN_FOLDERS))
    for name, make, said in table
]


def content_of(folder):
    """What lies in a folder: names, sizes and times of change."""
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    )


def test_the_table_is_long_enough():
    from test_parameters import BAD

    assert len(TABLE) + len(BAD) >= 100


@pytest.mark.parametrize("make, said", TABLE)
def test_bad_input_is_refused_in_one_line_and_nothing_changes(
    make, said, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    there, earlier = tmp_path / "input", tmp_path / "run"
    there.mkdir()
    earlier.mkdir()
    (earlier / "metrics.json").write_text('{"mine": {}}')
    values = {**SMOKE, "run_dir": str(earlier), **make(there)}
    before = content_of(tmp_path)
    start = perf_counter()
    with pytest.raises(UserError) as caught:
        read_parameters({**vars(Settings()), **values})
    assert perf_counter() - start < SECONDS
    message = str(caught.value)
    assert said in message
    assert "\n" not in message and len(message) < 1000
    assert content_of(tmp_path) == before
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_same_input_without_a_fault_is_taken(tmp_path):
    values = {**SMOKE, "run_dir": str(tmp_path / "run")}
    assert check_values(
        {**values, **text_file("rows.csv", GOOD)(tmp_path), "num_validation": 11, "num_eval": 14}
    )
    assert check_values({**values, **model_folder()(tmp_path)})
