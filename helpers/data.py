"""From a source to tokenized rows. Chapter 01 teaches every function but `prepare_data`."""

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from datasets import ClassLabel, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from helpers.parameters import HELD_OUT, check_enough_rows
from helpers.runs import DATA_PARAMETERS, is_made_by, locked, made_by, new_folder, run_folder
from helpers.sources import SourceError, find_dataset, find_model

ROWS_A_PART = 10_000
TOKEN_PARAMETERS = ("model_name", "dataset_name", "text_column", "label_column", "max_length")


def clean(dataset, text_column, label_column):
    """Keep text and label, named `text` and `label`; drop rows without them and repeated texts.

    Test rows come first: a text in two splits stays in the one that is trained on least.
    Defined in chapter 01.
    """
    names = {text_column: "text", label_column: "label"}
    dataset = dataset.select_columns(list(names)).rename_columns(names)
    seen, cleaned = set(), {}
    for name in ("test", "validation", "train"):
        if name not in dataset:
            continue
        kept = []
        columns = zip(dataset[name]["text"], dataset[name]["label"], strict=True)
        for row, (text, label) in enumerate(columns):
            text = str(text or "").strip()
            number = hash(text)  # takes less memory than the text
            labelled = not pd.isna(label) and str(label).strip() != ""
            if text != "" and labelled and number not in seen:
                seen.add(number)
                kept.append(row)
        cleaned[name] = dataset[name].select(kept)
    return DatasetDict(cleaned)


def encode_labels(dataset, label_names=None):
    """Turn the column `label` into a `ClassLabel`: class numbers 0, 1, ... that know their names.

    Without `label_names` the names are the values themselves, in their order.
    Defined in chapter 01.
    """
    if isinstance(dataset["train"].features["label"], ClassLabel):
        return dataset
    values = sorted(set().union(*(rows["label"] for rows in dataset.values())))
    names = list(label_names or (str(int(v) if isinstance(v, float) else v) for v in values))
    encoded = dataset.map(lambda label: {"label": values.index(label)}, input_columns="label")
    return encoded.cast_column("label", ClassLabel(names=names))


def split(dataset, held_out):
    """Make sure of three splits: put the share `held_out` aside for each of test and validation.

    Splits that the data set brings stay as they are. The seed is fixed: a test row of today
    is a test row for ever, whatever the parameter `seed` says. Defined in chapter 01.
    """
    splits = dict(dataset)
    for name in ("test", "validation"):
        if name not in splits:
            parts = splits["train"].train_test_split(test_size=held_out, seed=42)
            splits["train"], splits[name] = parts["train"], parts["test"]
    return DatasetDict(splits)


def tokenize(batch, tokenizer, max_length):
    """Return `input_ids`, `token_type_ids` and `attention_mask` of `batch["text"]`.

    Texts longer than `max_length` tokens are cut. Defined in chapter 01.
    """
    return tokenizer(batch["text"], truncation=True, max_length=max_length)


def longest_first(rows):
    """Return tokenized rows in the order of their lengths, the longest first.

    Batches of rows in this order hold hardly any padding. Defined in chapter 01.
    """
    lengths = np.array([len(input_ids) for input_ids in rows["input_ids"]])
    return rows.select(np.argsort(-lengths, kind="stable"))


def prepare_data(settings):
    """Return the tokenized rows `train`, `validation` and `eval` as a DatasetDict.

    Those that are not trained on come with the longest text first.

    Takes them from `run_dir` if chapter 01 left them there with the same settings, and else
    takes the steps of chapter 01. Columns: text, label, input_ids, token_type_ids, attention_mask.

    Raises ParameterError if there are fewer rows than asked for, SourceError if a column is missing.
    """
    folder = run_folder(settings) / "data"
    with locked(folder):
        if not is_made_by(folder, made_by(settings, DATA_PARAMETERS)):
            save_data(_take_the_steps(settings), settings)
        return load_from_disk(folder)


def _take_the_steps(settings):
    source = find_dataset(settings.dataset_name, [settings.text_column, settings.label_column])
    dataset = load_dataset(source.path, **source.options)
    if source.only is not None:
        dataset = dataset.filter(lambda name: name == source.only, input_columns="source")
    check_columns(dataset, settings)
    dataset = clean(dataset, settings.text_column, settings.label_column)
    dataset = split(encode_labels(dataset, source.label_names), HELD_OUT)
    check_enough_rows(settings, *(len(dataset[name]) for name in ("train", "validation", "test")))
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    tokenized = tokenize_parts(dataset, tokenizer, settings.max_length, parts_folder(settings))
    shuffled = tokenized.shuffle(seed=settings.seed)
    return DatasetDict(
        train=shuffled["train"].select(range(settings.num_train)),
        validation=longest_first(shuffled["validation"].select(range(settings.num_validation))),
        eval=longest_first(shuffled["test"].select(range(settings.num_eval))),
    )


def tokenize_parts(dataset, tokenizer, max_length, folder):
    """Tokenize all splits, some thousand rows at a time, each part into a file of its own in `folder`.

    A file that is there is taken as it is, so that work goes on where it was broken off. Shows a
    progress bar if there is more than one part to make.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        folder / f"{name}-{start}.arrow": (name, rows.select(range(start, end)))
        for name, rows in dataset.items()
        for start in range(0, rows.num_rows, ROWS_A_PART)
        for end in [min(start + ROWS_A_PART, rows.num_rows)]
    }
    tokenized = {name: [] for name in dataset}
    several = len(parts) > len(dataset) and not all(file.exists() for file in parts)
    progress_bar = tqdm(
        total=sum(dataset.num_rows.values()), desc="tokenizing", unit=" rows", disable=not several
    )
    with progress_bar, _no_bars_inside(several):
        for file, (name, rows) in parts.items():
            # The name stands for what is in the file; the hash of a tokenizer changes with its use.
            tokenized[name].append(
                rows.map(
                    tokenize,
                    batched=True,
                    fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
                    cache_file_name=str(file),
                    new_fingerprint=f"{folder.name}-{file.stem}",
                )
            )
            progress_bar.update(rows.num_rows)
    return DatasetDict({name: concatenate_datasets(rows) for name, rows in tokenized.items()})


@contextmanager
def _no_bars_inside(several):
    hidden = datasets.are_progress_bars_disabled()
    if several:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def parts_folder(settings):
    """Return the folder of the tokens in the cache of 🤗 Datasets, named after what they depend on."""
    stamp = json.dumps(made_by(settings, TOKEN_PARAMETERS), sort_keys=True)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE, "finetuning-notebooks", digest)


def save_data(dataset, settings):
    """Write the rows of `prepare_data` to `run_dir/data`."""
    with new_folder(run_folder(settings) / "data", made_by(settings, DATA_PARAMETERS)) as folder:
        dataset.save_to_disk(folder)


def check_columns(dataset, settings):
    """Raise SourceError unless the data set has a split `train` with the text and the label column."""
    if "train" not in dataset:
        raise SourceError(
            f"{settings.dataset_name!r} has no split 'train'; it has {', '.join(dataset)}"
        )
    columns = dataset["train"].column_names
    for parameter in ("text_column", "label_column"):
        if getattr(settings, parameter) not in columns:
            raise SourceError(
                f"{parameter}: {settings.dataset_name!r} has no column {getattr(settings, parameter)!r};"
                f" it has {', '.join(columns)}"
            )
