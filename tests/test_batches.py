"""Batches: every row once, padded as far as needed, in a repeatable order."""

import pytest
import torch
from lessons import rows_of

from helpers.batches import make_dataloader, to_model_inputs


@pytest.fixture
def rows(smoke):
    return to_model_inputs(rows_of(smoke))["train"]


def texts_of(dataloader, tokenizer):
    return [
        tuple(ids[mask.bool()].tolist())
        for batch in dataloader
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize(("shuffle", "grouped"), [(False, False), (True, False), (True, True)])
def test_every_row_comes_once_in_every_epoch(rows, tokenizer, shuffle, grouped):
    dataloader = make_dataloader(rows, tokenizer, 10, shuffle, grouped, seed=1)
    wanted = sorted(tuple(ids.tolist()) for ids in rows["input_ids"])
    for _ in range(2):
        assert sorted(texts_of(dataloader, tokenizer)) == wanted
    assert len(dataloader) == 4  # 32 rows in batches of 10


def test_a_batch_is_as_long_as_its_longest_text_and_masks_the_padding(rows, tokenizer):
    for batch in make_dataloader(rows, tokenizer, 8):
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape[1] == lengths.max()
        assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
        assert all((row.diff() <= 0).all() for row in batch["attention_mask"])
        assert batch["labels"].dtype == torch.int64
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("grouped", [False, True])
def test_the_seed_repeats_the_orders_and_epochs_differ(rows, tokenizer, grouped):
    first = make_dataloader(rows, tokenizer, 8, True, grouped, seed=3)
    again = make_dataloader(rows, tokenizer, 8, True, grouped, seed=3)
    other = make_dataloader(rows, tokenizer, 8, True, grouped, seed=4)
    one, two = texts_of(first, tokenizer), texts_of(first, tokenizer)
    assert one != two
    assert (texts_of(again, tokenizer), texts_of(again, tokenizer)) == (one, two)
    assert texts_of(other, tokenizer) != one


def test_grouping_saves_padding(smoke, tokenizer):
    from dataclasses import replace

    rows = to_model_inputs(rows_of(replace(smoke, num_train=512, max_length=128)))["train"]

    def tokens(grouped):
        return sum(
            batch["input_ids"].numel()
            for batch in make_dataloader(rows, tokenizer, 8, True, grouped)
        )

    assert tokens(True) < 0.8 * tokens(False)


def test_labels_stay_with_their_texts(smoke, tokenizer):
    dataset = rows_of(smoke)["train"]
    label_of = {
        tuple(ids): label for ids, label in zip(dataset["input_ids"], dataset["label"], strict=True)
    }
    dataloader = make_dataloader(to_model_inputs(dataset), tokenizer, 8, True, True)
    for batch in dataloader:
        for ids, mask, label in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            assert label_of[tuple(ids[mask.bool()].tolist())] == label
