"""Cleaning, labels, splits and tokens."""

import os
import re
import subprocess
import sys
import time

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from conftest import SMOKE, write_rows
from helpers.check import class_name, read_rows, usable_rows
from helpers.data import clean, encode_labels, longest_first, prepare_data, split, tokenize
from helpers.parameters import HELD_OUT, Settings, all_sizes, check_values


def as_dataset(**splits):
    return DatasetDict({name: Dataset.from_dict(columns) for name, columns in splits.items()})


def test_clean_drops_blank_repeated_and_unlabelled_rows():
    dataset = as_dataset(
        train={
            "review": ["a", "b", " a ", "", None, "c", "d"],
            "stars": [1, 2, 1, 1, 1, None, 3],
            "id": list(range(7)),
        }
    )
    rows = clean(dataset, "review", "stars")["train"]
    assert rows.column_names == ["text", "label"]
    assert list(rows["text"]) == ["a", "b", "d"]
    assert list(rows["label"]) == [1, 2, 3]


def test_clean_keeps_a_text_of_two_splits_in_the_test_rows():
    dataset = as_dataset(
        train={"text": ["a", "b", "c"], "label": [0, 1, 0]},
        validation={"text": ["b"], "label": [1]},
        test={"text": ["a"], "label": [0]},
    )
    cleaned = clean(dataset, "text", "label")
    assert {name: list(rows["text"]) for name, rows in cleaned.items()} == {
        "train": ["c"],
        "validation": ["b"],
        "test": ["a"],
    }


def test_clean_does_not_forget_the_test_rows_when_results_are_cached(tmp_path):
    for name, texts in (("train", "a b c"), ("test", "a")):
        (tmp_path / f"{name}.csv").write_text(
            "text,label\n" + "".join(f"{t},0\n" for t in texts.split())
        )
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "test")}
    for _ in range(2):
        dataset = load_dataset("csv", data_files=files, cache_dir=str(tmp_path / "cache"))
        assert list(clean(dataset, "text", "label")["train"]["text"]) == ["b", "c"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["spam", "ham", "spam"], ["ham", "spam"]),
        ([5, 1, 3], ["1", "3", "5"]),
        ([True, False, True], ["False", "True"]),
        ([2.0, 1.0, 2.0], ["1", "2"]),
    ],
)
def test_encode_labels_counts_from_zero(labels, names):
    dataset = encode_labels(as_dataset(train={"text": ["x", "y", "z"], "label": labels}))
    feature = dataset["train"].features["label"]
    assert feature.names == names
    assert [feature.int2str(number) for number in dataset["train"]["label"]] == [
        class_name(label) for label in labels
    ]


def test_encode_labels_keeps_names_that_the_data_brings():
    dataset = as_dataset(train={"text": ["x"], "label": [1]}).cast_column(
        "label", ClassLabel(names=["no", "yes"])
    )
    assert encode_labels(dataset)["train"].features["label"].names == ["no", "yes"]


def test_split_is_disjoint_complete_and_of_the_announced_sizes():
    texts = [f"text {number}" for number in range(101)]
    parts = split(as_dataset(train={"text": texts, "label": [0] * 101}), HELD_OUT)
    sizes = tuple(parts[name].num_rows for name in ("train", "validation", "test"))
    assert sizes == all_sizes({"train": 101})
    assert sorted(text for rows in parts.values() for text in rows["text"]) == sorted(texts)


def test_split_keeps_the_splits_of_the_data_set():
    dataset = as_dataset(
        train={"text": list("abcdefghij"), "label": [0] * 10},
        test={"text": ["x", "y"], "label": [0, 1]},
    )
    parts = split(dataset, 0.2)
    assert list(parts["test"]["text"]) == ["x", "y"]
    assert (parts["train"].num_rows, parts["validation"].num_rows) == (8, 2)


def test_tokenize_cuts_at_the_limit_and_does_not_pad(tokenizer):
    encoded = tokenize(
        {"text": ["short", "a much longer text than that one"]}, tokenizer, max_length=5
    )
    assert [len(ids) for ids in encoded["input_ids"]] == [3, 5]
    assert all(ids[-1] == tokenizer.sep_token_id for ids in encoded["input_ids"])


@pytest.mark.parametrize(
    "dataset_name", ["cornell-movie-review-data/rotten_tomatoes", "stanfordnlp/imdb"]
)
def test_packaged_reviews_have_no_text_in_two_splits(dataset_name, tmp_path):
    rows = usable_rows(read_rows(Settings(dataset_name=dataset_name)))
    available = all_sizes({"train": len(rows["train"])})
    sizes = dict(zip(("num_train", "num_validation", "num_eval"), available, strict=True))
    settings = check_values(
        {**SMOKE, **sizes, "dataset_name": dataset_name, "run_dir": str(tmp_path / "run")}
    )
    dataset = prepare_data(settings)
    texts = [text.strip() for rows in dataset.values() for text in rows["text"]]
    assert len(texts) == len(set(texts)) == sum(available)
    for rows in dataset.values():
        assert rows.features["label"].names == ["negative", "positive"]
        assert 0.45 < pd.Series(rows["label"]).mean() < 0.55


def test_test_rows_do_not_become_training_rows_under_another_seed(tmp_path):
    everything = {"num_train": 6162, "num_eval": 1280, "max_length": 8}
    first, second = (
        prepare_data(
            check_values({**everything, "seed": seed, "run_dir": str(tmp_path / str(seed))})
        )
        for seed in (1, 2)
    )
    assert set(first["eval"]["text"]) == set(second["eval"]["text"])
    assert list(first["train"]["text"]) != list(second["train"]["text"])


def test_rows_that_are_not_trained_on_come_with_the_longest_first(smoke):
    dataset = prepare_data(smoke)
    lengths = {name: [len(ids) for ids in rows["input_ids"]] for name, rows in dataset.items()}
    for name in ("validation", "eval"):
        assert lengths[name] == sorted(lengths[name], reverse=True), name
        assert len(set(lengths[name])) > 1, name
    assert lengths["train"] != sorted(lengths["train"], reverse=True)


def test_texts_of_equal_length_keep_their_order():
    rows = Dataset.from_dict({"input_ids": [[0] * n for n in (2, 3, 1, 3, 2)], "row": range(5)})
    assert list(longest_first(rows)["row"]) == [1, 3, 0, 4, 2]


def test_data_of_the_same_settings_is_taken_and_of_others_made_again(smoke, tmp_path):
    first = prepare_data(smoke)
    stamp = tmp_path / "run" / "data" / "made_by.json"
    time = stamp.stat().st_mtime_ns
    assert prepare_data(smoke).num_rows == first.num_rows
    assert stamp.stat().st_mtime_ns == time
    fewer = check_values({**SMOKE, "num_train": 16, "run_dir": smoke.run_dir})
    assert prepare_data(fewer)["train"].num_rows == 16
    assert stamp.stat().st_mtime_ns != time


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_an_own_file_with_its_own_columns_works(tmp_path, suffix):
    names = ["bad", "good", "so-so"]
    rows = pd.DataFrame(
        {"review": [f"text {n}" for n in range(60)], "stars": [names[n % 3] for n in range(60)]}
    )
    path = tmp_path / f"reviews{suffix}"
    write_rows(rows, path)
    settings = check_values(
        {
            "dataset_name": str(path),
            "text_column": "review",
            "label_column": "stars",
            "num_train": 30,
            "num_validation": 7,
            "num_eval": 9,
            "run_dir": str(tmp_path / "run"),
        }
    )
    dataset = prepare_data(settings)
    assert dataset["train"].features["label"].names == names
    assert dataset.num_rows == {"train": 30, "validation": 7, "eval": 9}


@pytest.mark.parametrize("early", [1, None])
def test_another_column_may_change_its_type_late_in_a_csv_file(tmp_path, early):
    """`load_dataset` finds out the types for every 10,000 rows anew, and takes no other type later."""
    rows = pd.DataFrame({"text": [f"text {n}" for n in range(10_010)]})
    rows["label"] = rows.index % 2
    rows["notes"] = [early] * 10_000 + ["a note"] * 10
    rows.to_csv(tmp_path / "own.csv", index=False)
    own = {"dataset_name": str(tmp_path / "own.csv"), "run_dir": str(tmp_path / "run")}
    assert prepare_data(check_values({**SMOKE, **own}))["train"].num_rows == SMOKE["num_train"]


def test_names_of_rows_before_the_first_column_are_no_texts(tmp_path):
    """R writes them so, without a name in the header."""
    rows = "".join(f'"{n}","text {n}",{n % 2}\n' for n in range(100, 160))
    (tmp_path / "own.csv").write_text('"text","label"\n' + rows)
    own = {"dataset_name": str(tmp_path / "own.csv"), "run_dir": str(tmp_path / "run")}
    sizes = {"num_train": 30, "num_validation": 7, "num_eval": 9}
    dataset = prepare_data(check_values({**SMOKE, **sizes, **own}))
    assert all(text.startswith("text") for text in dataset["train"]["text"])


IMDB = {"dataset_name": "stanfordnlp/imdb", "max_length": 64}
PREPARE = """
import os, sys
from helpers.data import prepare_data
from helpers.parameters import check_values
dataset = prepare_data(check_values({**%r, "run_dir": sys.argv[1]}))
print(dataset["train"][0]["input_ids"], dataset["train"].num_rows)
"""


def prepare(run_dir, cache, hash_seed, **changes):
    values = {**SMOKE, **IMDB, **changes}
    environment = {**os.environ, "HF_HOME": str(cache), "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE % values, str(run_dir)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def token_files(cache):
    folder = cache / "datasets" / "finetuning-notebooks"
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


def test_tokenizing_goes_on_after_a_kill_and_the_cache_does_not_depend_on_the_session(tmp_path):
    """Killed when the first of three parts of the 25,000 reviews is there."""
    cache = tmp_path / "cache"
    first = prepare(tmp_path / "first", cache, 1)
    end = time.time() + 120
    while not token_files(cache) and time.time() < end:
        time.sleep(0.05)
    first.kill()
    first.communicate()
    kept = token_files(cache)
    assert kept and not (tmp_path / "first" / "data").exists()

    second = prepare(tmp_path / "first", cache, 2)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    whole = token_files(cache)
    assert len(whole) > len(kept)
    assert {name: whole[name] for name in kept} == kept
    assert "tokenizing: 100%" in errors
    assert not re.search(r"Map.*/10000 ", errors)  # one bar, not one a part

    other = prepare(tmp_path / "other", cache, 3, num_train=40)
    output_of_other, errors = other.communicate()
    assert other.returncode == 0, errors
    assert token_files(cache) == whole
    assert "tokenizing" not in errors
    assert output_of_other.split("]")[0] == output.split("]")[0]
