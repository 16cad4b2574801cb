"""Own files of every kind, read as they are meant."""

from csv import reader
from pathlib import Path
from time import process_time

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, load_dataset

from conftest import SMOKE, write_rows
from helpers.data import clean, encode_labels
from suite.check import DatasetError, check_dataset, check_subset, read_rows
from suite.rows import find_rows
from suite.runner import main
from suite.settings import Settings, parameters_cell
from suite.start import check_values, read_parameters

SMALL = {"num_train": 30, "num_validation": 6, "num_test": 8, "max_length": 32}
KINDS = [".csv", ".tsv", ".json", ".jsonl", ".parquet"]
TEXT = 'She said “no”,\nthen: "yes" – naïve café, ½ price; 日本 😀 שלום number {}'


def rows(labels, number=60, text=TEXT):
    stars = [labels[n % len(labels)] for n in range(number)]
    return pd.DataFrame({"stars": stars, "review": [text.format(n) for n in range(number)]})


def settings_of(path, tmp_path, **changes):
    names = {"text_column": "review", "label_column": "stars"}
    place = {"dataset_name": str(path), "run_dir": str(tmp_path / "run")}
    return check_values({**SMOKE, **SMALL, **names, **place, **changes})


def labelled_rows(settings):
    """All rows of a data set, loaded and cleaned as chapter 01 does, with their classes."""
    columns = [settings.text_column, settings.label_column]
    files = find_rows(settings).files
    return encode_labels(clean(load_dataset("parquet", data_files=files), *columns))


def assert_read_as_written(written, settings, names):
    """All rows are there, each with its own text and class."""
    dataset = labelled_rows(settings)
    assert dataset["train"].features["label"].names == names
    read = [(row["text"], row["label"]) for split in dataset.values() for row in split]
    numbers = {value: number for number, value in enumerate(sorted(set(written["stars"])))}
    expected = zip(written["review"], written["stars"].map(numbers), strict=True)
    assert sorted(read) == sorted(expected)


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
    assert_read_as_written(rows(labels), settings_of(path, tmp_path), names)


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
    settings = settings_of(folder, tmp_path, num_test=15)
    assert_read_as_written(written, settings, ["bad", "good"])
    for name, part in parts.items():
        assert list(labelled_rows(settings)[name]["text"]) == list(part["review"])


WESTERN = "Très déçu – „naja“, 5 € zu teuer, number {}"


@pytest.mark.parametrize(
    ("encoding", "text", "separator", "note"),
    [
        ("utf-8", TEXT, "JSON", ""),
        ("utf-8-sig", TEXT, "JSON", ""),
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
    if separator == "JSON":
        path, names = tmp_path / "reviews.jsonl", ["007", "08"]  # words that look like numbers
        lines = rows(names, text=text).to_json(orient="records", lines=True, force_ascii=False)
        path.write_text(lines, encoding=encoding)
    else:
        path, names = tmp_path / "reviews.csv", ["bad", "good"]
        rows(names, text=text).to_csv(path, index=False, encoding=encoding, sep=separator)
    settings = settings_of(path, tmp_path)
    assert_read_as_written(rows(names, text=text), settings, names)
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
    settings = settings_of(tmp_path / "own.csv", tmp_path)
    assert_read_as_written(written, settings, ["bad", "good"])


def test_names_of_rows_before_the_first_column_are_no_texts(tmp_path):
    """R writes them so, without a name in the header."""
    lines = [f'"{n}","text {n}",{n % 2}' for n in range(100, 160)]
    (tmp_path / "own.csv").write_text("\n".join(['"review","stars"', *lines]))
    texts = labelled_rows(settings_of(tmp_path / "own.csv", tmp_path))["train"]["text"]
    assert list(texts) == [f"text {n}" for n in range(100, 160)]


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
    for name, split, end in (("train", train, "word " * 40), ("test", test, "odd 2")):
        odd = rows(["odd"], 1, f"odd in {name}"), rows(["odd"], 1, end)
        pd.concat([split, *odd]).to_csv(folder / f"{name}.csv", index=False)
    settings = settings_of(folder, tmp_path)
    report = check_dataset(settings)
    columns = ["rows", "no text", "no label", "repeated", "in another split", "usable"]
    counts = dict(zip(columns, [52, 2, 3, 2, 1, 44], strict=True))
    assert report.splits.loc["train"].to_dict() == counts
    assert report.splits.loc["test", "usable"] == 22
    assert report.classes["rows"].sum() == 66
    assert report.classes.loc["odd", "rows"] == 4
    said = "\n".join(report.notes)
    assert "8 rows are left out" in said
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


def test_the_check_takes_a_few_times_as_long_as_reading(tmp_path):
    """Seconds for hundreds of thousands of rows: about three times as long as Python's csv module."""
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"], 40_000, "word " * 200 + "{}").to_csv(path, index=False)
    start = process_time()
    with path.open(newline="") as file:
        assert sum(1 for _ in reader(file)) == 40_001
    read = process_time()
    read_rows(Settings(dataset_name=str(path), text_column="review", label_column="stars"), True)
    assert process_time() - read < 10 * (read - start)


def test_the_runner_checks_and_runs_nothing(tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    rows(["bad", "good"]).to_csv(path, index=False)
    values = vars(settings_of(path, tmp_path))
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
    given = ["-p", f"dataset_name={path}", "-p", "text_column=review", "-p", "label_column=stars"]
    assert main(["check", *given]) == 0
    assert "(num_train 216, num_validation 39, num_test 45):" in capsys.readouterr().out
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
    with pytest.raises(
        DatasetError, match="all 3 training rows are of the class 'spam', none of ham, odd"
    ):
        check_subset(Dataset.from_dict({"label": [1, 1, 1]}, features=features))
