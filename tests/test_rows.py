"""Own files of every kind: read as they are meant, row for row, and what the check says of them."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_from_disk
from lessons import labelled_rows, run_here, run_python
from pyarrow.parquet import write_table

from conftest import write_rows
from suite.check import DatasetError, check_dataset, check_subset
from suite.errors import UserError
from suite.rows import find_rows
from suite.runner import main
from suite.settings import Settings, parameters_cell
from suite.start import check_values, read_parameters

SMALL = {"num_train": 30, "num_validation": 6, "num_test": 8}
KINDS = [".csv", ".tsv", ".json", ".jsonl", ".parquet"]
WESTERN = "Très déçu – „naja“, 5 € zu teuer, number {}"
TEXT = 'She said “no”,\nthen: "yes" – naïve café, ½ price; 日本 😀 שלום number {}'


def rows(labels, number=60, text=TEXT):
    texts = [text.format(n) for n in range(number)]
    return pd.DataFrame({"label": [labels[n % len(labels)] for n in range(number)], "text": texts})


def settings_of(path, **changes):
    return Settings(dataset_name=str(path), max_length=32, **changes)


def assert_read_as_written(written, path, names):
    dataset = labelled_rows(settings_of(path))
    assert dataset["train"].features["label"].names == names
    read = [(row["text"], row["label"]) for split in dataset.values() for row in split]
    numbers = {value: number for number, value in enumerate(sorted(set(written["label"])))}
    assert sorted(read) == sorted(zip(written["text"], written["label"].map(numbers), strict=True))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["bad", "good", "so-so"], ["bad", "good", "so-so"]),
        ([5, 3, 4], ["3", "4", "5"]),
        ([True, False], ["False", "True"]),
        ([2.0, 1.0], ["1", "2"]),
        ([-1, 0, 1], ["-1", "0", "1"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [*KINDS, ".CSV", "-saved"])
def test_a_file_of_any_kind_with_labels_of_any_kind(kind, labels, names, tmp_path):
    path = tmp_path / f"reviews{kind}"
    if kind == "-saved":
        Dataset.from_pandas(rows(labels)).save_to_disk(path)
    else:
        write_rows(rows(labels), path)
    assert_read_as_written(rows(labels), path, names)


@pytest.mark.parametrize("kind", [*KINDS, "semicolons", "saved"])
def test_a_folder_with_each_split_apart(kind, tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    written = rows(["bad", "good"], 80)
    parts = {"train": written[:50], "validation": written[50:65], "test": written[65:]}
    for name, part in parts.items():
        if kind == "semicolons":
            part.to_csv(folder / f"{name}.csv", sep=";", index=False, encoding="utf-16")
        elif kind != "saved":
            write_rows(part, folder / f"{name}{kind}")
    if kind == "saved":
        saved = DatasetDict({name: Dataset.from_pandas(part) for name, part in parts.items()})
        saved.save_to_disk(folder, num_shards={"train": 3, "validation": 1, "test": 1})
    assert_read_as_written(written, folder, ["bad", "good"])
    read = {name: list(rows["text"]) for name, rows in labelled_rows(settings_of(folder)).items()}
    assert read == {name: list(part["text"]) for name, part in parts.items()}


UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
OTHER = "reviews.csv is not in UTF-8 (line 2): read as "


@pytest.mark.parametrize(
    ("encoding", "text", "separator", "note"),
    [
        *((encoding, TEXT, separator, "") for encoding in UNICODE for separator in ",;|\t"),
        *((encoding, TEXT, "JSON", "") for encoding in UNICODE[:2]),
        *(("cp1252", WESTERN, separator, f"{OTHER}Western European") for separator in ",;"),
        ("latin-1", "déçu \x81 {}", ",", f"{OTHER}Latin-1"),
    ],
)
def test_encodings_and_separators(encoding, text, separator, note, tmp_path, capsys):
    if separator == "JSON":
        path, names = tmp_path / "reviews.jsonl", ["007", "08"]  # words that look like numbers
        lines = rows(names, text=text).to_json(orient="records", lines=True, force_ascii=False)
        path.write_text(lines, encoding=encoding)
    else:
        path, names = tmp_path / "reviews.csv", ["bad", "good"]
        rows(names, text=text).to_csv(path, index=False, encoding=encoding, sep=separator)
    assert_read_as_written(rows(names, text=text), path, names)
    settings = settings_of(path, **SMALL)
    capsys.readouterr()
    read_parameters({"In": ["", parameters_cell(), "…"], **vars(settings)})
    said = capsys.readouterr().out
    assert said.startswith(note) and said.count("\n") == bool(note)
    report = check_dataset(settings)
    assert any(line.startswith(note) for line in report.notes)
    assert list(report.classes.index) == names


@pytest.mark.parametrize("early", [1, None])
def test_another_column_may_change_its_type_late_in_a_csv_file(tmp_path, early):
    """`load_dataset` finds out the types for every 10,000 rows anew, and takes no other type later."""
    written = rows(["bad", "good"], 10_010)
    written["notes"] = [early] * 10_000 + ["a note"] * 10
    written.to_csv(tmp_path / "own.csv", index=False)
    assert_read_as_written(written, tmp_path / "own.csv", ["bad", "good"])


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
    # R writes names of rows so, without a name in the header.
    ("a.csv", '"text","label"\n' + "".join(f'"{n}","t {n}",{n % 2}\n' for n in range(8)), ["0", "1"],
     ("t 0", "0")),
]  # fmt: skip


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


def test_an_encoding_can_be_said(tmp_path):
    path = write(tmp_path, "a.csv", lines("服务冷淡很难吃啊,bad").encode("gb18030"))
    rows = labelled_rows(settings_of(path, encoding="gb18030"))["train"]
    assert rows[0]["text"] == "服务冷淡很难吃啊"
    with pytest.raises(UserError, match="is not in utf-8"):
        find_rows(settings_of(path, encoding="utf-8"))


def test_classes_that_look_alike_or_like_lists_are_noted(tmp_path):
    classes = ("Good", "good", "a|b", "['a']", "caf\u00e9", "cafe\u0301", "fine\u200b", "fine")
    path = write(tmp_path, "a.csv", lines(classes=classes, count=24))
    said = "\n".join(check_dataset(settings_of(path)).notes)
    assert "alone: café, 'cafe\\u0301', 'fine\\u200b', fine, Good and 1 more" in said
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
    settings = settings_of(tmp_path / "a.parquet")
    report = check_dataset(settings)
    assert report.splits.loc["train", ["no label", "usable"]].tolist() == [2, 4]
    assert labelled_rows(settings)["train"].features["label"].names == ["z", "a"]


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
    dev = pd.DataFrame({"label": ["bad"], "more": [1], "text": ["v"]})
    dev.to_parquet(tmp_path / "dev.parquet")
    sizes = {"test": 2, "validation": 1, "train": 7}
    assert labelled_rows(settings_of(tmp_path)).num_rows == sizes


def test_the_report_counts_every_fault(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    train = rows(["bad", "good"], 50, "A film, number {}!")
    train.loc[[0, 1], "text"] = ["  ", None]  # no text
    train.loc[[0, 2, 3, 4], "label"] = [None, None, " ", None]  # no label, one without both
    train.loc[[6, 7], "text"] = "A film, number 5!"  # repeated
    test = rows(["bad", "good"], 20, "Seen in test {}")
    test.loc[0, "text"] = "A film, number 20!"  # as in train
    test.loc[1, "text"] = "a FILM number  21"  # alike
    for name, split, end in (("train", train, "word " * 40), ("test", test, "odd 2")):
        odd = rows(["odd"], 1, f"odd in {name}"), rows(["odd"], 1, end)
        pd.concat([split, *odd]).to_csv(folder / f"{name}.csv", index=False)
    settings = settings_of(folder)
    report = check_dataset(settings)
    columns = ["rows", "no text", "no label", "repeated", "in another split", "usable"]
    counts = dict(zip(columns, [52, 2, 4, 2, 1, 44], strict=True))
    assert report.splits.loc["train"].to_dict() == counts
    assert report.splits.loc["test", "usable"] == 22
    assert report.classes["rows"].sum() == 66
    assert report.classes.loc["odd", "rows"] == 4
    said = "\n".join(report.notes)
    assert "8 rows are left out" in said
    assert "1 texts occur with different classes (train, row 6" in said
    assert "2 texts differ from another" in said and "row 22" in said and "row 2" in said
    assert "fewer than 10 rows: odd" in said
    assert "1.5% of 66 texts are longer than max_length, 32 tokens" in said
    kept = labelled_rows(settings).num_rows
    assert sum(kept.values()) == report.splits["usable"].sum()


@pytest.mark.parametrize(
    ("name", "usable", "repeated"),
    [("cornell-movie-review-data/rotten_tomatoes", 8530, 0), ("stanfordnlp/imdb", 24904, 96)],
)
def test_the_packaged_files_hold_what_the_chapters_say(name, usable, repeated):
    """Chapter 01: the default set is clean; about a hundred of 25,000 long reviews are repeated."""
    settings = Settings(dataset_name=name)
    report = check_dataset(settings)
    assert report.splits.loc["train", ["usable", "repeated"]].tolist() == [usable, repeated]
    assert set(report.classes.index) == {"positive", "negative"}
    kept = labelled_rows(settings)["train"]
    assert len(kept) == len({text.strip() for text in kept["text"]}) == usable
    assert kept.features["label"].names == ["negative", "positive"]
    assert 0.45 < pd.Series(kept["label"]).mean() < 0.55


RATIO = """
import sys
from csv import reader
from time import process_time

from suite.check import read_rows
from suite.settings import Settings

path, seconds = sys.argv[1], {"csv": [], "check": []}
settings = Settings(dataset_name=path)
for _ in range(3):
    start = process_time()
    with open(path, newline="") as file:
        assert sum(1 for _ in reader(file)) == 40_001
    read = process_time()
    read_rows(settings, True)
    seconds["csv"].append(read - start)
    seconds["check"].append(process_time() - read)
print(min(seconds["check"]) / min(seconds["csv"]))
"""


def test_the_check_takes_a_few_times_as_long_as_reading(tmp_path):
    """Seconds for hundreds of thousands of rows: about three times as long as Python's csv module.

    In a process of its own: in this one, Python looks through what other tests have left in memory.
    """
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"], 40_000, "word " * 200 + "{}").to_csv(path, index=False)
    assert float(run_python("-c", RATIO, path).stdout) < 10


def test_the_runner_checks_and_runs_nothing(tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"]).to_csv(path, index=False)
    values = vars(settings_of(path, **SMALL, run_dir=str(tmp_path / "run")))
    arguments = [part for name, value in values.items() for part in ("-p", name, str(value))]
    assert main(["check", *arguments]) == 0
    said = capsys.readouterr().out
    command = "-m suite run -p " + " -p ".join(f"{name}={v}" for name, v in values.items())
    assert said.splitlines()[-1].replace("'", "").endswith(command)
    assert "always answering 'bad' would be right for 50.0% of the rows" in said
    assert main(["check", *arguments, "-p", "num_train", "99"]) == 1
    said, complaint = capsys.readouterr()
    assert "always answering 'bad'" in said
    assert "num_train is 99, but" in complaint and "set num_train to 43 or less" in complaint
    assert not Path(tmp_path, "run").exists()


@pytest.mark.slow
def test_a_small_data_set_gives_what_it_holds_unless_sizes_were_asked_for(tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"], 300).to_csv(path, index=False)
    given = ["-p", f"dataset_name={path}"]
    assert main(["check", *given]) == 0
    said = capsys.readouterr().out
    assert "(num_train 216, num_validation 39, num_test 45):" in said
    assert said.endswith(f"-m suite run --name mine -p dataset_name={path}\n")
    assert main(["check", *given, "-p", "num_test=46"]) == 1
    assert "num_test is 46, but" in capsys.readouterr().err
    assert main(["run", "01", *given, "-p", f"run_dir={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert "smaller than the usual sizes: num_train 216, num_validation 39, num_test 45." in said
    assert "train_rows 216" in said


def test_a_subset_says_which_classes_it_lacks(capsys):
    names = ["ham", "spam", "odd"]
    features = Features({"label": ClassLabel(names=names)})
    check_subset(Dataset.from_dict({"label": [0, 1, 2]}, features=features))
    assert capsys.readouterr().out == ""
    check_subset(Dataset.from_dict({"label": [0, 1, 1]}, features=features))
    assert "no training row of the classes odd" in capsys.readouterr().out
    said = "all 3 training rows are of the class 'spam', none of ham, odd"
    with pytest.raises(DatasetError, match=said):
        check_subset(Dataset.from_dict({"label": [1, 1, 1]}, features=features))
