"""Tokens of whole data sets, in parts that survive a crash."""

import hashlib
import inspect
import json
import os
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

from datasets import DatasetDict, concatenate_datasets
from tqdm.auto import tqdm

from suite.model_folder import TOKENIZER_FILES
from suite.names import cache_folder

ROWS_A_PART = 10_000


def tokenize_parts(tokenize, dataset, tokenizer, max_length):
    """Return a DatasetDict with what `map(tokenize, batched=True)` gives, and keep it in the cache.

    tokenize: function of (batch, tokenizer, max_length)

    Takes some thousand rows at a time, each part into a file of its own. A file that is there is taken
    as it is, so that work goes on where it was broken off. Shows a progress bar if there is more than
    one part to make.
    """
    folder = parts_folder(tokenize, dataset, tokenizer, max_length)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        folder / f"{name}-{start}.arrow": (name, rows.select(range(start, end)))
        for name, rows in dataset.items()
        for start in range(0, rows.num_rows, ROWS_A_PART)
        for end in [min(start + ROWS_A_PART, rows.num_rows)]
    }
    tokenized = {name: [] for name in dataset}
    arguments = {"tokenizer": tokenizer, "max_length": max_length}
    several = len(parts) > len(dataset) and not all(file.exists() for file in parts)
    progress_bar = tqdm(
        total=sum(dataset.num_rows.values()), desc="tokenizing", unit=" rows", disable=not several
    )
    # The chapters switch this off, as what has used it must not be copied: here all cores may help.
    with progress_bar, patch.dict(os.environ, TOKENIZERS_PARALLELISM=str(several).lower()):
        for file, (name, rows) in parts.items():
            # The name stands for what is in the file; the hash of a tokenizer changes with its use.
            cached = {"cache_file_name": str(file), "new_fingerprint": f"{folder.name}-{file.stem}"}
            tokenized[name].append(rows.map(tokenize, batched=True, fn_kwargs=arguments, **cached))
            progress_bar.update(rows.num_rows)
    return DatasetDict({name: concatenate_datasets(rows) for name, rows in tokenized.items()})


def parts_folder(tokenize, dataset, tokenizer, max_length):
    """Return the folder of the tokens, named after what they depend on.

    That is `tokenize` itself, the rows, the tokenizer's files, and the libraries that read them.
    """
    model = Path(tokenizer.name_or_path)
    files = [model / name for name in (*TOKENIZER_FILES, "tokenizer_config.json")]
    stamp = {
        "tokenize": inspect.getsource(tokenize),
        "max_length": max_length,
        "rows": {name: rows._fingerprint for name, rows in dataset.items()},
        "tokenizer": [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()],
        "versions": {name: version(name) for name in ("datasets", "tokenizers", "transformers")},
    }
    digest = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / digest
