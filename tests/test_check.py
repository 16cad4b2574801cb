"""Own files of every kind, read as they are meant, and refused where no classifier can come of them."""

import time
from csv import reader
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from conftest import ROOT, SMOKE, write_rows
from helpers.check import check_dataset, read_rows, usable_rows
from helpers.data import prepare_data
from helpers.errors import UserError
from helpers.parameters import Settings, check_values, parameters_cell, read_parameters
from helpers.runner import main

SMALL = {"num_train": 30, "num_validation": 6, "num_eval": 8, "max_length": 32}
KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".CSV")
LABELS = {
    "words": (["bad", "good", "so-so"], ["bad", "good", "so-so"]),
    "stars": ([3, 4, 5], ["3", "4", "5"]),
    "true or false": ([False, True], ["False", "True"]),
    "whole floats": ([1.0, 2.0], ["1", "2"]),
    "negative": ([-1, 0, 1], ["-1", "0", "1"]),
}
TEXT = 'She said “no”,\nthen: "yes" – naïve café, ½ price; 日本 😀 שלום number {}'


def rows(labels, number=60, text=TEXT):
    return pd.DataFrame(
        {
            "stars": [labels[n % len(labels)] for n in range(number)],
            "review": [text.format(n) for n in range(number)],
        }
    )


def settings_of(path, tmp_path, **changes):
    names = {"text_column": "review", "label_column": "stars"}
    place = {"dataset_name": str(path), "run_dir": str(tmp_path / "run")}
    return check_values({**SMOKE, **SMALL, **names, **place, **changes})


def assert_read_as_written(written, settings, names):
    """All rows are there, each with its own text and class."""
    expected = {
        text.strip(): names[sorted(set(written["stars"])).index(label)]
        for text, label in zip(written["review"], written["stars"], strict=True)
    }
    dataset = prepare_data(settings)
    feature = dataset["train"].features["label"]
    assert feature.names == names
    for split in dataset.values():
        for text, label in zip(split["text"], split["label"], strict=True):
            assert expected[text.strip()] == feature.int2str(label)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_kind_with_labels_of_any_kind(kind, labels, tmp_path):
    values, names = LABELS[labels]
    path = tmp_path / f"reviews{kind}"
    write_rows(rows(values), path)
    assert_read_as_written(rows(values), settings_of(path, tmp_path), names)


@pytest.mark.parametrize("labels", LABELS)
def test_a_folder_that_datasets_has_saved(labels, tmp_path):
    values, names = LABELS[labels]
    Dataset.from_pandas(rows(values)).save_to_disk(tmp_path / "one")
    assert_read_as_written(rows(values), settings_of(tmp_path / "one", tmp_path), names)
    several = DatasetDict(
        train=Dataset.from_pandas(rows(values)[:40]), test=Dataset.from_pandas(rows(values)[40:])
    )
    several.save_to_disk(tmp_path / "several", num_shards={"train": 3, "test": 1})
    settings = settings_of(tmp_path / "several", tmp_path, run_dir=str(tmp_path / "other"))
    assert_read_as_written(rows(values), settings, names)
    assert set(prepare_data(settings)["eval"]["text"]) <= set(rows(values)["review"][40:])


@pytest.mark.parametrize("kind", [*KINDS[:5], "semicolons"])
def test_a_folder_with_a_file_for_each_split(kind, tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    written = rows(["bad", "good"], 80)
    for name, part in (
        ("train", written[:50]),
        ("validation", written[50:65]),
        ("test", written[65:]),
    ):
        if kind == "semicolons":
            part.to_csv(folder / f"{name}.csv", sep=";", index=False, encoding="utf-16")
        else:
            write_rows(part, folder / f"{name}{kind}")
    settings = settings_of(folder, tmp_path, num_eval=15)
    assert_read_as_written(written, settings, ["bad", "good"])
    assert set(prepare_data(settings)["eval"]["text"]) == set(written["review"][65:])


WESTERN = "Très déçu – „naja“, 5 € zu teuer, number {}"


@pytest.mark.parametrize(
    ("encoding", "text", "separator", "note"),
    [
        ("utf-8-sig", TEXT, ",", ""),
        ("utf-16", TEXT, ",", ""),
        ("utf-16", TEXT, "\t", ""),
        ("utf-32", TEXT, ";", ""),
        ("utf-8", TEXT, ";", ""),
        ("utf-8", TEXT, "|", ""),
        ("cp1252", WESTERN, ",", "reviews.csv is not in UTF-8 (line 2): read as Western European"),
        ("cp1252", WESTERN, ";", "reviews.csv is not in UTF-8 (line 2): read as Western European"),
        ("latin-1", "déçu \x81 {}", ",", "reviews.csv is not in UTF-8 (line 2): read as Latin-1"),
    ],
)
def test_encodings_and_separators(encoding, text, separator, note, tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    written = rows(["bad", "good"], text=text)
    written.to_csv(path, index=False, encoding=encoding, sep=separator)
    settings = settings_of(path, tmp_path)
    assert_read_as_written(written, settings, ["bad", "good"])
    capsys.readouterr()
    read_parameters({"In": ["", parameters_cell(), "…"], **vars(settings)})
    said = capsys.readouterr().out
    assert said.startswith(note) and said.count("\n") == bool(note)
    assert [
        line for line in check_dataset(settings).notes if note and line.startswith(note)
    ] or not note


def test_json_keeps_words_that_look_like_numbers(tmp_path):
    path = tmp_path / "reviews.jsonl"
    written = rows(["007", "08"])
    write_rows(written, path)
    assert_read_as_written(written, settings_of(path, tmp_path), ["007", "08"])
    assert list(check_dataset(settings_of(path, tmp_path)).classes.index) == ["007", "08"]


def test_json_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "reviews.jsonl"
    written = rows(["bad", "good"])
    path.write_text(
        written.to_json(orient="records", lines=True, force_ascii=False), encoding="utf-8-sig"
    )
    assert_read_as_written(written, settings_of(path, tmp_path), ["bad", "good"])


def csv(text):
    return "reviews.csv", text.encode()


def with_rows(*lines, header="stars,review"):
    """A CSV file of sixty good rows, and these at the end."""
    good = [f"{'good' if n % 2 else 'bad'},text {n}" for n in range(60)]
    return csv("\n".join([header, *good, *lines]) + "\n")


def numbers(*values):
    return csv("stars,review\n" + "".join(f"{value},text {n}\n" for n, value in enumerate(values)))


REFUSED = {
    "one class": (numbers(*[1] * 60), "column 'stars' holds '1' in every row"),
    "no label at all": (
        csv("stars,review\n,a\n,b\n"),
        "no row has a text and a value in the column 'stars'",
    ),
    "no text at all": (csv("stars,review\n1,\n2,\n"), "no row has a text"),
    "no rows": (csv("stars,review\n"), "no row has a text"),
    "a class that occurs once": (
        with_rows("awful,text 60"),
        "reviews.csv, row 61, column 'stars': the class 'awful' occurs there alone",
    ),
    "more classes that occur once": (
        with_rows("awful,text 60", "great,text 61"),
        "row 61, column 'stars': the class 'awful' occurs there alone, and 1 more",
    ),
    "half stars": (
        numbers(*[1, 2] * 30, 3.5, 3.5),
        "reviews.csv, row 61, column 'stars' holds 3.5; a class is a word or a whole number",
    ),
    "words among numbers": (
        (
            "reviews.jsonl",
            b"".join(
                b'{"review": "text %d", "stars": %s}\n' % (n, b'"x"' if n == 7 else b"%d" % (n % 2))
                for n in range(40)
            ),
        ),
        "reviews.jsonl, row 8, column 'stars' holds 'x', but most rows hold numbers",
    ),
    "a list of labels": (
        ("reviews.jsonl", b'{"review": "a", "stars": [1, 2]}\n{"review": "b", "stars": [1]}\n'),
        "reviews.jsonl, row 1, column 'stars' holds a list",
    ),
    "a record as text": (
        ("reviews.jsonl", b'{"review": {"x": 1}, "stars": 1}\n{"review": {"x": 2}, "stars": 2}\n'),
        "reviews.jsonl, row 1, column 'review' holds a record",
    ),
    "numbers as texts": (
        csv("stars,review\n" + "".join(f"{n % 2},{n}\n" for n in range(60))),
        "reviews.csv, column 'review' holds numbers, such as 0, and no texts",
    ),
    "no such column": (
        csv("label,review\n1,a\n"),
        "label_column: .* has no column 'stars'; it has label, review",
    ),
    "a row with too many fields": (
        with_rows("good,text,60,too,many"),
        "cannot be read: .*Expected 2 fields in line 62, saw 5",
    ),
    "an empty file": (csv(""), "cannot be read: No columns to parse"),
    "a broken record": (("reviews.jsonl", b'{"review": "a", "stars"\n'), "cannot be read"),
    "JSON in Latin-1": (
        (
            "reviews.jsonl",
            '{"review": "a", "stars": 1}\n{"review": "é", "stars": 2}\n'.encode("latin-1"),
        ),
        "reviews.jsonl is not in UTF-8 .line 2., as JSON has to be",
    ),
    "UTF-16 without its mark": (
        ("reviews.csv", "stars,review\n1,a\n".encode("utf-16-le")),
        "reviews.csv holds bytes that are no text; if it is UTF-16, save it as UTF-8",
    ),
    "no Parquet": (("reviews.parquet", b"PK\x03\x04 not parquet"), "cannot be read"),
    "a spreadsheet": (("reviews.xlsx", b"PK\x03\x04"), "must end in one of .csv"),
    "too few rows": (numbers(*[1, 2] * 8), "num_train is 30, but .* has 11 rows for it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_classifier_can_come_of_is_refused_in_one_line(case, tmp_path):
    (name, content), message = REFUSED[case]
    path = tmp_path / name
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(UserError, match=message) as raised:
        settings_of(path, tmp_path)
    assert "\n" not in str(raised.value)
    assert time.perf_counter() - start < 5
    assert not (tmp_path / "run").exists()
    assert path.read_bytes() == content


def test_a_class_that_train_does_not_have_is_refused(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    rows(["bad", "good"], 40).to_csv(folder / "train.csv", index=False)
    rows(["bad", "good", "new"], 40, "other {}").to_csv(folder / "test.csv", index=False)
    message = (
        "test, row 3, column 'stars': the class 'new' of the split 'test' does not occur in 'train'"
    )
    with pytest.raises(UserError, match=message):
        settings_of(folder, tmp_path)


def test_faults_of_a_folder_are_refused_in_one_line(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    path = folder / "train.csv"
    rows(["bad", "good"], 40).rename(columns={"stars": "label"}).to_csv(path, index=False)
    with pytest.raises(
        UserError, match="label_column: .* has no column 'stars'; it has label, review"
    ):
        settings_of(folder, tmp_path)
    rows(["bad", "good"], 40).to_csv(path, index=False)
    with path.open("a") as file:
        file.write("good,text,too,many\n")
    with pytest.raises(UserError, match="reviews' cannot be read: .*Expected 2 fields") as raised:
        settings_of(folder, tmp_path)
    assert "\n" not in str(raised.value)
    path.rename(folder / "test.csv")
    rows(["bad", "good"], 40).to_csv(folder / "test.csv", index=False)
    with pytest.raises(UserError, match="reviews' has no split 'train'; it has test"):
        settings_of(folder, tmp_path)


def test_files_of_a_folder_that_differ_are_refused(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    rows(["bad", "good"]).to_csv(folder / "train.csv", index=False, encoding="utf-16")
    rows(["bad", "good"]).to_csv(folder / "test.csv", index=False)
    with pytest.raises(
        UserError, match="test.csv and train.csv .* differ in kind, encoding or separator"
    ):
        settings_of(folder, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="folder .* holds no file that ends in .csv"):
        settings_of(empty, tmp_path)


def test_the_report_counts_every_fault(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    train = rows(["bad", "good"], 50, "A film, number {}!")
    train.loc[[0, 1], "review"] = ["  ", None]  # no text
    train.loc[[2, 3, 4], "stars"] = [None, " ", None]  # no label
    train.loc[[6, 7], "review"] = "A film, number 5!"  # repeated
    test = rows(["bad", "good"], 20, "Seen in test {}")
    test.loc[0, "review"] = "A film, number 20!"  # as in train
    test.loc[1, "review"] = "a FILM number  21"  # alike
    test = pd.concat([test, pd.DataFrame({"stars": ["odd"] * 2, "review": ["odd 1", "odd 2"]})])
    train = pd.concat(
        [train, pd.DataFrame({"stars": ["odd"] * 2, "review": ["odd 3", "word " * 40]})]
    )
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    settings = settings_of(folder, tmp_path)
    report = check_dataset(settings)
    assert report.splits.loc["train"].to_dict() == {
        "rows": 52,
        "no text": 2,
        "no label": 3,
        "repeated": 2,
        "in another split": 1,
        "usable": 44,
    }
    assert report.splits.loc["test", "usable"] == 22
    assert report.classes["rows"].sum() == 66
    assert report.classes.loc["odd", "rows"] == 4
    said = "\n".join(report.notes)
    assert "8 rows are left out" in said
    assert "2 texts differ from another" in said and "row 22" in said and "row 2" in said
    assert "fewer than 10 rows: odd" in said
    assert "1.5% of 66 texts are longer than max_length, 32 tokens" in said
    prepared = {**SMOKE, "num_train": 37, "num_validation": 7, "num_eval": 22}
    names = {"text_column": "review", "label_column": "stars"}
    everything = check_values(
        {**prepared, **names, "dataset_name": str(folder), "run_dir": str(tmp_path / "all")}
    )
    assert sum(prepare_data(everything).num_rows.values()) == report.splits["usable"].sum()


def test_the_packaged_files_hold_what_the_chapters_say():
    """Chapter 01: the default set is clean; about a hundred of 25,000 long reviews are repeated."""
    for name, usable in (
        ("cornell-movie-review-data/rotten_tomatoes", 8530),
        ("stanfordnlp/imdb", 24904),
    ):
        assert len(usable_rows(read_rows(Settings(dataset_name=name)))["train"]) == usable
    report = check_dataset(Settings(dataset_name="stanfordnlp/imdb"))
    assert report.splits.loc["train", "repeated"] == 96
    assert list(report.classes.index) == ["positive", "negative"]


def test_the_check_takes_a_few_times_as_long_as_reading(tmp_path):
    """Seconds for hundreds of thousands of rows: about three times as long as Python's csv module."""
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"], 40_000, "word " * 200 + "{}").to_csv(path, index=False)
    start = time.perf_counter()
    with path.open(newline="") as file:
        assert sum(1 for _ in reader(file)) == 40_001
    reading = time.perf_counter() - start
    start = time.perf_counter()
    read_rows(Settings(dataset_name=str(path), text_column="review", label_column="stars"), True)
    checking = time.perf_counter() - start
    assert checking < 10 * reading


def test_the_runner_checks_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"]).to_csv(path, index=False)
    values = {**SMALL, "dataset_name": path, "text_column": "review", "label_column": "stars"}
    values["run_dir"] = tmp_path / "run"
    arguments = [part for name, value in values.items() for part in ("-p", name, str(value))]
    assert main(["--check", *arguments]) == 0
    said = capsys.readouterr().out
    assert "always answering 'bad' would be right for 50.0% of the rows" in said
    assert main(["--check", *arguments, "-p", "num_train", "99"]) == 1
    said, complaint = capsys.readouterr()
    assert "always answering 'bad'" in said
    assert "num_train is 99, but" in complaint and "set num_train to 43 or less" in complaint
    assert not Path(tmp_path, "run").exists()
