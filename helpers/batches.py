"""From tokenized rows to batches. Chapter 02 teaches both functions."""

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding
from transformers.trainer_pt_utils import LengthGroupedSampler


def to_model_inputs(dataset):
    """Return the rows as the model takes them: no text, the class named `labels`, PyTorch tensors.

    Defined in chapter 02.
    """
    dataset = dataset.remove_columns(["text"])
    dataset = dataset.rename_column("label", "labels")
    dataset.set_format("torch")  # changes `dataset` itself, unlike the two calls above
    return dataset


def make_dataloader(rows, tokenizer, batch_size, shuffle=False, group_by_length=False, seed=0):
    """Return a DataLoader whose batches are padded to their own longest text.

    rows: a Dataset of `to_model_inputs`
    shuffle: another order each epoch; the same orders again for the same `seed`
    group_by_length: with `shuffle`, put texts of like length into one batch

    A batch maps input_ids, token_type_ids and attention_mask to int64 tensors of shape
    (batch, longest text) and labels to shape (batch,). Defined in chapter 02.
    """
    collator = DataCollatorWithPadding(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    if shuffle and group_by_length:
        lengths = [len(input_ids) for input_ids in rows["input_ids"]]
        sampler = LengthGroupedSampler(batch_size, lengths=lengths, generator=generator)
        return DataLoader(rows, batch_size, sampler=sampler, collate_fn=collator)
    return DataLoader(rows, batch_size, shuffle=shuffle, generator=generator, collate_fn=collator)
