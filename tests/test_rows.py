"""What stands in a file is what is trained on: a table of files, each with the rows that it gives, or the refusal."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_from_disk
from lessons import run_here
from pyarrow.parquet import read_table, write_table
from test_check import labelled_rows

from suite.check import check_dataset
from suite.errors import UserError
from suite.rows import find_rows
from suite.settings import Settings
from suite.start import check_values

GOOD, BAD = ("fine {}", "good"), ("dull {}", "bad")


def lines(*first, sep=",", header="text,label", count=12, end="\n", classes=("good", "bad")):
    """A file: its header, the first rows as they are, and then some that hold no fault."""
    more = [f"film {n}{sep}{classes[n % len(classes)]}" for n in range(count)]
    return end.join([header.replace(",", sep), *first, *more]) + end


def jsonl(*labels):
    return "\n".join(json.dumps({"text": f"t {n}", "label": v}) for n, v in enumerate(labels))


USUAL = ["bad", "good"]
# name of the file, its content, and its classes with the first row's text and class
READ = [
    ("a.csv", lines('"one, two",good'), USUAL, ("one, two", "good")),
    ("a.csv", lines('"say ""yes""",good'), USUAL, ('say "yes"', "good")),
    ("a.csv", lines('"say \\"yes\\", do",good'), USUAL, ('say "yes", do', "good")),
    ("a.csv", lines('"one\ntwo, three",bad'), USUAL, ("one\ntwo, three", "bad")),
    ("a.csv", lines('"one\rtwo",bad'), USUAL, ("one\rtwo", "bad")),
    ("a.csv", lines('"a,good', "b,bad", "c,good", 'd",bad'), USUAL, ('"a', "good")),
    ("a.csv", lines('"never closed,good'), USUAL, ('"never closed', "good")),
    ("a.csv", lines('"Great" film,good', '"all quoted",bad'), USUAL, ('"Great" film', "good")),
    ("a.csv", lines("x,good,", "y,bad,,"), USUAL, ("x", "good")),
    ("a.csv", lines("x,good", header="text,label,"), USUAL, ("x", "good")),
    ("a.csv", lines("x, good", header="text, label"), USUAL, ("x", "good")),
    ("a.csv", lines('x, "good"', header="text, label"), USUAL, ("x", "good")),
    ("a.csv", "\n\n" + lines("x,good"), USUAL, ("x", "good")),
    ("a.csv", lines("x,good", "", "   ", "y,bad"), USUAL, ("x", "good")),
    ("a.csv", "sep=;\n" + lines("x, y;good", sep=";"), USUAL, ("x, y", "good")),
    ("a.csv", '"sep=|"\n' + lines("x|good", sep="|"), USUAL, ("x", "good")),
    ("a.csv", lines("a, b;good", sep=";"), USUAL, ("a, b", "good")),
    ("a.csv", lines("a\tgood", sep="\t"), USUAL, ("a", "good")),
    ("a.tsv", lines("a\tgood", sep="\t"), USUAL, ("a", "good")),
    ("a.tsv", lines("a,good"), USUAL, ("a", "good")),
    ("a.tsv", lines('"first\tgood', '"second\tbad', sep="\t"), USUAL, ('"first', "good")),
    ("a.csv", lines("x,good", end="\r\n"), USUAL, ("x", "good")),
    ("a.csv", lines("x,good", end="\r"), USUAL, ("x", "good")),
    ("a.csv", lines(*(f"{n},x {n},good" for n in range(3)), count=0).replace("good", "bad", 1)
     + "3,x 3,bad\n", USUAL, ("x 0", "bad")),
    ("a.csv", "id,text,note,label\n" + "".join(f"{n},t {n},,{n % 2}\n" for n in range(8)), ["0", "1"], ("t 0", "0")),
    ("a.csv", lines("x" * 200_000 + ",good"), USUAL, ("x" * 200_000, "good")),
    ("a.csv", lines("nan,bad", "None,good", "42,good"), USUAL, ("nan", "bad")),
    ("a.csv", lines(classes=("None", "NA", "null", "nan"), count=8), ["NA", "None", "nan", "null"], ("film 0", "None")),
    ("a.csv", lines(classes=("0101", "0202")), ["0101", "0202"], ("film 0", "0101")),
    ("a.csv", lines(classes=("1E5", "2E5")), ["1E5", "2E5"], ("film 0", "1E5")),
    ("a.csv", lines(classes=("1", "1.0", "2.0"), count=9), ["1", "2"], ("film 0", "1")),
    ("a.csv", lines(classes=("10", "9", "-1"), count=9), ["-1", "9", "10"], ("film 0", "10")),
    ("a.csv", lines(classes=("3+", "2", "1"), count=9), ["1", "2", "3+"], ("film 0", "3+")),
    ("a.csv", lines(classes=("2024-01-02", "2024-01-03")), ["2024-01-02", "2024-01-03"], ("film 0", "2024-01-02")),
    ("a.csv", lines(classes=("1234567890123456", "1234567890123457")),
     ["1234567890123456", "1234567890123457"], ("film 0", "1234567890123456")),
    ("a.csv", lines(classes=("True", "False")), ["False", "True"], ("film 0", "True")),
    ("a.csv", lines("x, good ", "y,bad "), USUAL, ("x", "good")),
    ("a.csv", lines(",", "x,good", ","), USUAL, ("x", "good")),
    ("a.csv", lines("x|good", "y, z|bad", sep="|"), USUAL, ("x", "good")),
    ("a.csv", lines('"x","good"', '"y","bad"', header='"text","label"'), USUAL, ("x", "good")),
    ("a.csv", lines('"a ""b"", c",good', '"",bad'), USUAL, ('a "b", c', "good")),
    ("a.csv", lines("x,好", "y,坏", count=0) + "z,好\nw,坏\n", ["坏", "好"], ("x", "好")),
    ("a.csv", lines("x,good").encode("utf-32"), USUAL, ("x", "good")),
    ("a.csv", lines("x,good").encode("utf-8-sig"), USUAL, ("x", "good")),
    ("a.csv", lines("x,good").encode("utf-16"), USUAL, ("x", "good")),
    ("a.csv", lines("déjà vu,good").encode("cp1252"), USUAL, ("déjà vu", "good")),
    ("a.csv.gz", gzip.compress(lines("x,good").encode()), USUAL, ("x", "good")),
    ("a.CSV", lines("x,good"), USUAL, ("x", "good")),
    ("b[1].csv", lines("x,good"), USUAL, ("x", "good")),
    ("s*.csv", lines("x,good"), USUAL, ("x", "good")),
    ("a.ndjson", jsonl("a", "b", "a", "b"), ["a", "b"], ("t 0", "a")),
    ("a.jsonl.gz", gzip.compress(jsonl("a", "b", "a", "b").encode()), ["a", "b"], ("t 0", "a")),
    ("a.jsonl", jsonl("007", "08", "007", "08"), ["007", "08"], ("t 0", "007")),
    ("a.jsonl", jsonl(1, 1.0, 2, 2, None), ["1", "2"], ("t 0", "1")),
    ("a.jsonl", jsonl("x", 1, 1, "x"), ["1", "x"], ("t 0", "x")),
    ("a.jsonl", jsonl(1, "x", 1, "x"), ["1", "x"], ("t 0", "1")),
    ("a.jsonl", jsonl("2024-01-02", "b", "2024-01-02", "b"), ["2024-01-02", "b"], ("t 0", "2024-01-02")),
    ("a.json", '{"text": {"0": "x", "1": "y", "2": "z", "3": "w"}, "label": {"3": "a", "0": "b", "1": "a", "2": "b"}}',
     ["a", "b"], ("x", "b")),
    ("a.json", '{"text": ["x", "y", "z", "w"],\n "label": [1, 2, 2, 1]}', ["1", "2"], ("x", "1")),
    ("a.json", f'{{"made": "2024", "data": [{jsonl("b", "a", "b", "a")}]}}'.replace("\n", ","),
     ["a", "b"], ("t 0", "b")),
    ("a.json", f'[{jsonl("b", "a", "b", "a")}]'.replace("\n", ",").replace(", ", ",\n"), ["a", "b"], ("t 0", "b")),
    ("a.json", f"[{jsonl(True, False, True, False)}]".replace("\n", ","), ["False", "True"], ("t 0", "True")),
]  # fmt: skip
REFUSED = [
    ("a.csv", lines("one, two,good"), "row 1 (line 2) has 3 fields separated by ',', the header 2"),
    ("a.csv", lines("x,good", "y"), "row 2 (line 3) has 1 field separated by ',', the header 2"),
    ("a.csv", lines("a,x,good", "b,y,bad", count=0), "row 1 (line 2) has 3 fields"),
    ("a.csv", lines("x\ry,good"), "row 1 (line 2) has 1 field"),
    ("a.csv", lines('"a, x",good', '"a,good', "b,bad", "c,good", 'd",bad'), "row 2: a quote opens there"),
    ("a.csv", lines('"a" b,good', '"c, d",bad'), "row 1: its quotes do not end where a field ends"),
    ("a.csv", lines("x,good,bad", header="text,label,label"), "two columns named 'label'"),
    ("a.csv", lines("x,good", header="fine film,dull"), "has no column 'text'; it has fine film, dull"),
    ("a.csv", lines(header="this is a first row,1"), "it has no header line: put one above it"),
    ("a.csv", lines("1,good", header="review,label"), "has no column 'text'; it has review, label"),
    ("a.csv", "text,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(9)), "holds numbers"),
    ("a.csv", lines(classes=("1", "2.5")), "row 2, column 'label' holds 2.5; a class is a word"),
    ("a.csv", lines("déjà,good", *["où,bad"] * 3).encode() + b"caf\xe9,bad\n", "(line 18), but 4 other"),
    ("a.csv", lines("это хороший фильм,good", "очень плохо,bad").encode("cp1251"), "set the parameter encoding"),
    ("a.csv", lines("这家餐厅值得再来,good", "服务冷淡很难吃啊,bad").encode("gb18030"), "set the parameter encoding"),
    ("a.csv", lines("この映画は最高です,good", "つまらない,bad").encode("shift-jis"), "set the parameter encoding"),
    ("a.csv", b"\x00\x01\x02", "holds bytes that are no text"),
    ("a.csv", "", "it is empty"),
    ("a.xlsx", b"PK\x03\x04", "pandas.read_excel('a.xlsx').to_csv('a' + '.csv', index=False)"),
    ("a.zip", b"PK\x03\x04", "unpack it: python -m zipfile -e a.zip a"),
    ("a.jsonl", jsonl("a", "b") + "\n[1]\n", "row 3 is no record"),
    ("a.jsonl", jsonl("a", "b") + "\n{\n", "cannot be read: row 3:"),
    ("a.jsonl", jsonl("a", "b").replace("\n", ",\n"), "row 1: Extra data; each line holds one record alone"),
    ("a.csv", "Survey, 2024\n\n" + lines("x,good"), "its header stands in line 3; remove the lines above it"),
    ("a.csv", "# made by hand\n" + lines("x;good", sep=";"), "its header stands in line 2"),
    ("a.csv.bz2", b"BZh", "unpack it: bunzip2 a.csv.bz2"),
    ("a.json", '{"text": "x", "label": "a"}', "holds 'a' in every row"),
    ("a.jsonl", jsonl(["a"], ["b"]), "row 1, column 'label' holds a list; for several labels per text"),
    ("a.jsonl", jsonl(1.5, 2.5, 1.5, 2.5), "row 1, column 'label' holds 1.5; a class is a word"),
    ("a.csv", lines(classes=("good",)), "holds 'good' in every row"),
]  # fmt: skip


def settings_of(path, **changes):
    return Settings(dataset_name=str(path), max_length=32, **changes)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(("name", "content", "classes", "first"), READ, ids=range(len(READ)))
def test_a_file_is_read_as_it_is_meant(name, content, classes, first, tmp_path):
    write(tmp_path, "b1.csv", lines("of a neighbour,other"))
    settings = settings_of(write(tmp_path, name, content))
    assert sorted(check_dataset(settings).classes.index) == sorted(classes)
    rows = labelled_rows(settings)["train"]
    assert rows.features["label"].names == classes
    assert (rows[0]["text"], classes[rows[0]["label"]]) == first


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content", "classes", "first"), READ[:22], ids=range(22))
def test_a_whole_chapter_takes_what_was_read(name, content, classes, first, tmp_path):
    values = {"dataset_name": str(write(tmp_path, name, content)), "run_dir": str(tmp_path / "run")}
    run_here("01", check_values({**values, "max_length": 32}))
    splits = load_from_disk(tmp_path / "run" / "data")
    assert splits["train"].features["label"].names == classes
    rows = [(row["text"], classes[row["label"]]) for part in splits.values() for row in part]
    assert first in rows
    assert {(f"film {n}", ("good", "bad")[n % 2]) for n in range(12)} <= set(rows)


@pytest.mark.parametrize(("name", "content", "said"), REFUSED, ids=range(len(REFUSED)))
def test_a_file_that_cannot_be_read_with_certainty_is_refused(name, content, said, tmp_path):
    with pytest.raises(UserError) as caught:
        check_dataset(settings_of(write(tmp_path, name, content)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_encoding_can_be_said(tmp_path):
    path = write(tmp_path, "a.csv", lines("服务冷淡很难吃啊,bad").encode("gb18030"))
    assert (
        labelled_rows(settings_of(path, encoding="gb18030"))["train"][0]["text"]
        == "服务冷淡很难吃啊"
    )
    with pytest.raises(UserError, match="is not in utf-8"):
        find_rows(settings_of(path, encoding="utf-8"))


def test_no_row_goes_uncounted(tmp_path):
    path = write(
        tmp_path, "a.csv", lines(",good", "x,", "film 0,good", "y,bad", "y,good", ",", count=6)
    )
    found = find_rows(settings_of(path))
    assert read_table(found.files["train"]).num_rows == 12 == found.parts["train"][0][1]
    report = check_dataset(settings_of(path))
    figures = report.splits.loc["train"].to_dict()
    wanted = {"rows": 12, "no text": 2, "no label": 2, "repeated": 2, "in another split": 0}
    assert figures == {**wanted, "usable": 7}
    assert any("1 texts occur with different classes (a.csv, row 4" in n for n in report.notes)


def test_classes_that_look_alike_or_like_lists_are_noted(tmp_path):
    classes = ("Good", "good", "a|b", "['a']", "caf\u00e9", "cafe\u0301", "fine\u200b", "fine")
    path = write(tmp_path, "a.csv", lines(classes=classes, count=24))
    said = "\n".join(check_dataset(settings_of(path)).notes)
    assert (
        "invisible letters alone: café, 'cafe\\u0301', 'fine\\u200b', fine, Good and 1 more" in said
    )
    assert "a|b" in said and "['a']" in said and "several labels of one text" in said


def test_class_names_of_several_files_are_brought_together_by_name(tmp_path):
    for split, names in {"train": ["bad", "good"], "test": ["good", "bad"]}.items():
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        texts = [f"{split} {word} {n}" for n in range(6) for word in names]
        labels = [names.index(text.split()[1]) for text in texts]
        written = Dataset.from_dict({"text": texts, "label": labels}, features=features)
        written.to_parquet(tmp_path / f"{split}.parquet")
    dataset = labelled_rows(settings_of(tmp_path))
    for rows in dataset.values():
        names = rows.features["label"].names
        assert all(names[row["label"]] == row["text"].split()[1] for row in rows)


def test_a_class_number_below_0_is_a_missing_class(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["z", "a"])})
    table = pa.table({"text": [f"t {n}" for n in range(6)], "label": [0, 1, -1, 0, 1, -1]})
    Dataset(table.cast(features.arrow_schema)).cast(features).to_parquet(tmp_path / "a.parquet")
    report = check_dataset(settings_of(tmp_path / "a.parquet"))
    assert report.splits.loc["train", ["no label", "usable"]].tolist() == [2, 4]
    assert labelled_rows(settings_of(tmp_path / "a.parquet"))["train"].features["label"].names == [
        "z",
        "a",
    ]


def test_bytes_are_text_in_utf_8(tmp_path):
    table = pa.table({"text": [b"caf\xc3\xa9", b"b", b"c", b"d"], "label": [b"x", b"y"] * 2})
    write_table(table, tmp_path / "a.parquet")
    rows = labelled_rows(settings_of(tmp_path / "a.parquet"))["train"]
    assert rows[0]["text"] == "café" and rows.features["label"].names == ["x", "y"]
    write_table(pa.table({"text": [b"\xff"], "label": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="cannot be read: 'utf-8' codec can't decode"):
        find_rows(settings_of(tmp_path / "b.parquet"))


def test_a_folder_as_competitions_give_it(tmp_path):
    write(tmp_path, "train.csv", lines("x,good"))
    write(tmp_path, "test.csv", "id,text\n1,a\n2,b\n")
    write(tmp_path, "sample_submission.csv", "id,label\n1,good\n")
    notes = check_dataset(settings_of(tmp_path)).notes
    assert "test.csv is left out: it has no column 'label'" in notes
    assert "sample_submission.csv is left out: its name tells no split" in notes


def test_copies_that_editors_and_systems_keep_are_no_data(tmp_path):
    for name in (".ipynb_checkpoints/train-checkpoint.csv", "__MACOSX/._train.csv", "~$train.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name, lines("of another day,good"))
    write(tmp_path, "train.csv", lines("x,good", count=6))
    assert labelled_rows(settings_of(tmp_path)).num_rows == {"train": 7}


def test_a_folder_of_files_of_several_kinds(tmp_path):
    write(tmp_path, "train.csv", lines("x;good", sep=";", count=6).encode("utf-16"))
    write(tmp_path, "test.jsonl", jsonl("good", "bad"))
    pd.DataFrame({"label": ["bad"], "more": [1], "text": ["v"]}).to_parquet(
        tmp_path / "dev.parquet"
    )
    assert labelled_rows(settings_of(tmp_path)).num_rows == {"test": 2, "validation": 1, "train": 7}
