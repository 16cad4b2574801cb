"""Batches: every row once, padded as far as needed, in a repeatable order."""

from dataclasses import replace

import pytest
import torch
from lessons import rows_of

from helpers.batches import make_dataloader, to_model_inputs


@pytest.fixture
def rows(smoke):
    return to_model_inputs(rows_of(smoke))["train"]


def texts_of(dataloader):
    """(tokens, label) of each text, in order."""
    return [
        (tuple(ids[mask.bool()].tolist()), label.item())
        for batch in dataloader
        for ids, mask, label in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        )
    ]


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
