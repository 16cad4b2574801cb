"""Cleaning, labels, splits, tokens and batches: every row once, padded as far as needed."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from lessons import rows_of

from helpers.batches import make_dataloader, to_model_inputs
from helpers.data import clean, longest_first, split, stratify, token_counts, tokenize
from suite.settings import HELD_OUT, all_sizes
from suite.start import check_values


def test_clean_drops_blank_repeated_and_unlabelled_rows():
    columns = {"review": ["a", "b", " a ", "", " ", "c", "d"], "stars": [1, 2, 1, 1, 1, None, 3]}
    rows = Dataset.from_dict({**columns, "id": range(7)})
    rows = clean(DatasetDict(train=rows), "review", "stars")["train"]
    assert rows.to_dict() == {"text": ["a", "b", "d"], "label": [1, 2, 3]}


def test_clean_keeps_a_text_of_two_splits_in_the_test_rows(tmp_path):
    """Also the second time, when `datasets` may take results from its cache."""
    for name, texts in {"train": "abcd", "validation": "be", "test": "ad"}.items():
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{t},0\n" for t in texts))
    for _ in range(2):
        cleaned = clean(load_dataset(str(tmp_path)), "text", "label")
        texts = {name: "".join(rows["text"]) for name, rows in cleaned.items()}
        assert texts == {"train": "c", "validation": "be", "test": "ad"}


SPLITS = [*({"train": rows} for rows in (7, 101, 8530)), {"train": 10, "test": 2}]


@pytest.mark.parametrize("brought", SPLITS, ids=str)
def test_split_is_disjoint_complete_and_of_the_announced_sizes(brought):
    texts = {name: [f"{name} {n}" for n in range(size)] for name, size in brought.items()}
    columns = {name: {"text": text, "label": [*map(len, text)]} for name, text in texts.items()}
    dataset = {name: Dataset.from_dict(rows) for name, rows in columns.items()}
    parts = split(DatasetDict(dataset), HELD_OUT)
    sizes = tuple(parts[name].num_rows for name in ("train", "validation", "test"))
    assert sizes == all_sizes(brought)
    every = sorted(text for rows in parts.values() for text in rows["text"])
    assert every == sorted(sum(texts.values(), []))
    assert "test" not in brought or list(parts["test"]["text"]) == texts["test"]


@pytest.mark.parametrize("sizes", [(500, 500), (980, 20), (900, 50, 30, 20), (1,) * 40, (90, 3, 7)])
def test_any_stretch_holds_the_classes_in_their_shares(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = Dataset.from_dict({"label": labels, "row": range(len(labels))})
    drawn = stratify(rows, 7)
    assert sorted(drawn["row"]) == sorted(rows["row"]) != list(drawn["row"])
    assert list(drawn["row"]) == list(stratify(rows, 7)["row"]) != list(stratify(rows, 8)["row"])
    there = np.array(drawn["label"])
    for size in range(1, len(labels) + 1, 7):
        for start in (0, len(labels) - size):
            counts = np.bincount(there[start : start + size], minlength=len(sizes))
            assert np.abs(counts - size * np.array(sizes) / len(labels)).max() <= 1
    parts = split(DatasetDict(train=rows), HELD_OUT)
    for number, size in enumerate(sizes):
        held = [list(parts[name]["label"]).count(number) for name in ("test", "validation")]
        assert abs(held[0] - HELD_OUT * size) < 1 and held[1] <= max(1, 0.2 * size)
        assert list(parts["train"]["label"]).count(number) >= size // 2


def test_tokens_are_counted_in_rows_that_were_chosen_and_in_any_format():
    rows = Dataset.from_dict({"input_ids": [[0] * n for n in range(5)], "text": list("abcde")})
    chosen = rows.select([4, 0, 2]).with_format("torch")
    assert token_counts(rows).tolist() == [0, 1, 2, 3, 4]
    assert token_counts(chosen).tolist() == [4, 0, 2]


def test_tokenize_cuts_at_the_limit_and_does_not_pad(tokenizer):
    texts = ["short", "a much longer text than that one"]
    encoded = tokenize({"text": texts}, tokenizer, max_length=5)
    assert [len(ids) for ids in encoded["input_ids"]] == [3, 5]
    assert all(ids[-1] == tokenizer.sep_token_id for ids in encoded["input_ids"])


def test_no_text_is_in_two_splits_and_only_training_rows_depend_on_the_seed(tmp_path):
    """All rows, as chapter 01 makes them; those that are not trained on come with the longest first."""
    values = {"num_train": 6162, "num_validation": 1088, "num_test": 1280, "max_length": 32}
    one, two = (
        rows_of(check_values({**values, "seed": seed, "run_dir": str(tmp_path / str(seed))}))
        for seed in (1, 2)
    )
    assert one.num_rows == {"train": 6162, "validation": 1088, "test": 1280}
    assert len({text for rows in one.values() for text in rows["text"]}) == 6162 + 1088 + 1280
    assert list(one["train"]["text"]) != list(two["train"]["text"])
    for name, rows in one.items():
        assert set(rows["text"]) == set(two[name]["text"])
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
    """Tokenize 25,000 rows in a process of its own, quiet as `read_parameters` makes a chapter's."""
    env = {**os.environ, "HF_HOME": str(cache), "PYTHONHASHSEED": str(hash_seed)}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command, pipe = [sys.executable, "-c", TOKENIZE, str(max_length)], subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)


def token_files(cache):
    return {path: path.stat().st_mtime_ns for path in cache.glob("finetuning-notebooks/*/*.arrow")}


@pytest.mark.slow
def test_tokenizing_goes_on_after_a_kill_and_the_cache_does_not_depend_on_the_session(tmp_path):
    """Killed when the first of three parts is there."""
    first = tokenize_apart(tmp_path, 1)
    while not token_files(tmp_path) and first.poll() is None:
        time.sleep(0.05)
    first.kill()
    first.communicate()
    kept = token_files(tmp_path)
    assert 0 < len(kept) < 3

    output, errors = tokenize_apart(tmp_path, 2).communicate()
    whole = token_files(tmp_path)
    assert len(whole) == 3, errors
    assert whole.items() >= kept.items()
    assert "tokenizing: 100%" in errors
    assert not re.search(r"Map.*/10000 ", errors)  # one bar, not one a part

    again, errors = tokenize_apart(tmp_path, 3).communicate()
    assert token_files(tmp_path) == whole
    assert "tokenizing" not in errors
    assert again == output != "", errors

    other, errors = tokenize_apart(tmp_path, 4, max_length=8).communicate()
    assert other not in (output, ""), errors
    assert len(token_files(tmp_path)) == 6


@pytest.fixture
def rows(smoke):
    return to_model_inputs(rows_of(smoke))["train"]


def texts_of(dataloader):
    columns = ("input_ids", "attention_mask", "labels")
    rows = (row for batch in dataloader for row in zip(*map(batch.get, columns), strict=True))
    return [(tuple(ids[mask.bool()].tolist()), label.item()) for ids, mask, label in rows]


@pytest.mark.parametrize(("shuffle", "grouped"), [(False, False), (True, False), (True, True)])
def test_every_row_comes_once_and_little_padding(smoke, rows, tokenizer, shuffle, grouped):
    """In every epoch, with its label; a batch is as long as its longest text, and masks the padding."""
    dataloader = make_dataloader(rows, tokenizer, 10, shuffle, grouped, seed=1)
    dataset = rows_of(smoke)["train"]
    wanted = sorted(zip(map(tuple, dataset["input_ids"]), dataset["label"], strict=True))
    for _ in range(2):
        assert sorted(texts_of(dataloader)) == wanted
    assert len(dataloader) == 4  # 32 rows in batches of 10
    for batch in dataloader:
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape[1] == lengths.max()
        assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
        assert all((row.diff() <= 0).all() for row in batch["attention_mask"])
        assert batch["labels"].dtype == torch.int64
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("grouped", [False, True])
def test_the_seed_repeats_the_orders_and_epochs_differ(rows, tokenizer, grouped):
    first, again, other = (
        make_dataloader(rows, tokenizer, 8, True, grouped, seed=seed) for seed in (3, 3, 4)
    )
    one, two = texts_of(first), texts_of(first)
    assert one != two
    assert (texts_of(again), texts_of(again)) == (one, two)
    assert texts_of(other) != one


def test_grouping_saves_padding(smoke, tokenizer):
    rows = to_model_inputs(rows_of(replace(smoke, num_train=512, max_length=128)))["train"]
    grouped, random = (
        sum(b["input_ids"].numel() for b in make_dataloader(rows, tokenizer, 8, True, by_length))
        for by_length in (True, False)
    )
    assert grouped < 0.8 * random
