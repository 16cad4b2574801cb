"""Cleaning, labels, splits and tokens."""

import os
import re
import subprocess
import sys
import time

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from lessons import rows_of

from helpers.data import clean, encode_labels, longest_first, split, tokenize
from suite.check import class_name
from suite.settings import HELD_OUT, all_sizes
from suite.start import check_values


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


@pytest.mark.parametrize("rows", [7, 101, 8530])
def test_split_is_disjoint_complete_and_of_the_announced_sizes(rows):
    texts = [f"text {number}" for number in range(rows)]
    parts = split(as_dataset(train={"text": texts, "label": [0] * rows}), HELD_OUT)
    sizes = tuple(parts[name].num_rows for name in ("train", "validation", "test"))
    assert sizes == all_sizes({"train": rows})
    assert sorted(text for rows in parts.values() for text in rows["text"]) == sorted(texts)


def test_split_keeps_the_splits_of_the_data_set():
    dataset = as_dataset(
        train={"text": list("abcdefghij"), "label": [0] * 10},
        test={"text": ["x", "y"], "label": [0, 1]},
    )
    parts = split(dataset, HELD_OUT)
    assert list(parts["test"]["text"]) == ["x", "y"]
    sizes = tuple(parts[name].num_rows for name in ("train", "validation", "test"))
    assert sizes == all_sizes({"train": 10, "test": 2}) == (8, 2, 2)


def test_tokenize_cuts_at_the_limit_and_does_not_pad(tokenizer):
    encoded = tokenize(
        {"text": ["short", "a much longer text than that one"]}, tokenizer, max_length=5
    )
    assert [len(ids) for ids in encoded["input_ids"]] == [3, 5]
    assert all(ids[-1] == tokenizer.sep_token_id for ids in encoded["input_ids"])


@pytest.fixture(scope="module")
def chapter_1(tmp_path_factory):
    """All training and test rows as chapter 01 makes them under two seeds."""
    folder = tmp_path_factory.mktemp("chapter-1")
    values = {"num_train": 6162, "num_validation": 1088, "num_eval": 1280, "max_length": 32}
    return [
        rows_of(check_values({**values, "seed": seed, "run_dir": str(folder / str(seed))}))
        for seed in (1, 2)
    ]


@pytest.mark.xdist_group("chapter_1")
def test_no_text_is_in_two_splits_and_test_rows_do_not_depend_on_the_seed(chapter_1):
    first, second = ({name: set(rows["text"]) for name, rows in made.items()} for made in chapter_1)
    assert chapter_1[0].num_rows == {"train": 6162, "validation": 1088, "eval": 1280}
    assert len(set.union(*first.values())) == 6162 + 1088 + 1280
    assert first == second
    assert list(chapter_1[0]["train"]["text"]) != list(chapter_1[1]["train"]["text"])


@pytest.mark.xdist_group("chapter_1")
def test_rows_that_are_not_trained_on_come_with_the_longest_first(chapter_1):
    for name, rows in chapter_1[0].items():
        lengths = [len(ids) for ids in rows["input_ids"]]
        assert len(set(lengths)) > 1, name
        assert (lengths == sorted(lengths, reverse=True)) == (name != "train"), name


def test_texts_of_equal_length_keep_their_order():
    rows = Dataset.from_dict({"input_ids": [[0] * n for n in (2, 3, 1, 3, 2)], "row": range(5)})
    assert list(longest_first(rows)["row"]) == [1, 3, 0, 4, 2]


TOKENIZE = """
import sys
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer
from helpers.data import tokenize
from suite.resolve import find_model
from suite.settings import Settings
from suite.tokens import tokenize_parts

texts = [f"review {n} " + "a long text " * 10 for n in range(25_000)]
dataset = DatasetDict(train=Dataset.from_dict({"text": texts}))
tokenizer = AutoTokenizer.from_pretrained(find_model(Settings().model_name))
rows = tokenize_parts(tokenize, dataset, tokenizer, int(sys.argv[1]))["train"]
print(rows[0]["input_ids"], rows[24_999]["input_ids"], rows.num_rows)
"""


def tokenize_apart(cache, hash_seed, max_length=512):
    """Tokenize 25,000 rows in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", TOKENIZE, str(max_length)],
        env={**os.environ, "HF_HOME": str(cache), "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def token_files(cache):
    folder = cache / "finetuning-notebooks"
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


def test_tokenizing_goes_on_after_a_kill_and_the_cache_does_not_depend_on_the_session(tmp_path):
    """Killed when the first of three parts is there."""
    first = tokenize_apart(tmp_path, 1)
    while not token_files(tmp_path) and first.poll() is None:
        time.sleep(0.05)
    first.kill()
    first.communicate()
    kept = token_files(tmp_path)
    assert 0 < len(kept) < 3

    second = tokenize_apart(tmp_path, 2)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    whole = token_files(tmp_path)
    assert len(whole) == 3
    assert {name: whole[name] for name in kept} == kept
    assert "tokenizing: 100%" in errors
    assert not re.search(r"Map.*/10000 ", errors)  # one bar, not one a part

    again = tokenize_apart(tmp_path, 3)
    output_again, errors = again.communicate()
    assert again.returncode == 0, errors
    assert token_files(tmp_path) == whole
    assert "tokenizing" not in errors
    assert output_again == output

    other = tokenize_apart(tmp_path, 4, max_length=8)
    assert other.communicate()[0] != output
    assert len(token_files(tmp_path)) == 3  # names are the same in both folders
    assert len(list((tmp_path / "finetuning-notebooks").rglob("*.arrow"))) == 6
