"""Where a model or a data set comes from: a packaged copy, a local path, or the Hub.

Imports nothing heavy, and asks no network before `find_model` has to.
"""

import json
import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from suite.errors import SourceError
from suite.files import BUILDERS, path_of, reading_options
from suite.hub import cached_model, fetch_model
from suite.names import (
    PACKAGED_DATASETS,
    PACKAGED_MODELS,
    packaged_dataset,
    packaged_path,
    refuse_unless_hub_id,
    split_hub_name,
)

# A folder with more in it is no data set, but somebody's home or disk.
MOST_FILES = 10_000


@dataclass(frozen=True)
class DatasetSource:
    """How to load one data set.

    path: first argument of `datasets.load_dataset`: a builder ("csv"), a folder or a Hub id
    options: its keyword arguments
    label_names: names of the classes 0, 1, ... of a packaged data set
    note: what a reader should know of how the file is read, in one line; empty if nothing
    """

    path: str
    options: dict = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    note: str = ""


def find_model(model_name):
    """Return the folder of a model, downloaded from the Hub first if it has to be.

    Raises SourceError if the name is a path where no model lies, if the package that should
    carry the model is not installed, or if the Hub does not give it.
    """
    return local_model(model_name) or fetch_model(model_name)


def local_model(model_name):
    """Return the folder of a packaged or local model, and None for a name that the Hub may know.

    Raises SourceError if the name is a path where no model lies, or if the
    package that should carry the model is not installed.
    """
    if model_name in PACKAGED_MODELS:
        package, folder = PACKAGED_MODELS[model_name]
        return str(packaged_path(package, folder))
    path = path_of(model_name)
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise SourceError(
                f"model_name: the folder {model_name!r} holds no config.json, so no model can be loaded from it"
            )
        return str(path)
    refuse_unless_hub_id("model_name", model_name)
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
        file, label_names = packaged_dataset(dataset_name), PACKAGED_DATASETS[dataset_name][-1]
        return DatasetSource("parquet", {"data_files": str(file)}, label_names)
    path = path_of(dataset_name)
    if os.path.isfile(path):
        if path.suffix.lower() not in BUILDERS:
            raise SourceError(
                f"dataset_name: {dataset_name!r} must end in one of {', '.join(BUILDERS)}"
            )
        options, note = reading_options(path, columns)
        return DatasetSource(
            BUILDERS[path.suffix.lower()], {"data_files": str(path), **options}, note=note
        )
    if os.path.isdir(path):
        return _find_dataset_in_folder(path, dataset_name)
    refuse_unless_hub_id("dataset_name", dataset_name)
    hub_id, revision = split_hub_name(dataset_name)
    return DatasetSource(hub_id, {"revision": revision} if revision else {})


def _find_dataset_in_folder(folder, dataset_name):
    """Return the DatasetSource of files named after their splits, or of what `save_to_disk` wrote."""
    saved = [folder] if (folder / "state.json").is_file() else []
    if (folder / "dataset_dict.json").is_file():
        saved = sorted(state.parent for state in folder.glob("*/state.json"))
    if saved:
        names = ["train" if split == folder else split.name for split in saved]
        files = [_arrow_files(split, dataset_name) for split in saved]
        return DatasetSource("arrow", {"data_files": dict(zip(names, files, strict=True))})
    inside = sorted(islice(folder.rglob("*"), MOST_FILES + 1))
    files = [file for file in inside if file.suffix.lower() in BUILDERS and file.is_file()]
    reason = None
    if len(inside) > MOST_FILES:
        reason = f"more than {MOST_FILES} files and folders; give one that holds the data set and nothing else"
    elif not files:
        reason = f"no file that ends in {', '.join(BUILDERS)}"
    if reason:
        raise SourceError(f"dataset_name: the folder {dataset_name!r} holds {reason}")
    readings = [reading_options(file) for file in files]
    builders = [BUILDERS[file.suffix.lower()] for file in files]
    if all(reading == ({}, "") for reading in readings):
        return DatasetSource(str(folder))
    options, note = readings[0]
    for file, builder, (other, _) in zip(files, builders, readings, strict=True):
        if other != options or builder != builders[0]:
            raise SourceError(
                f"dataset_name: {files[0].name} and {file.name} in {dataset_name!r} differ in kind, encoding or"
                " separator; save all as CSV in UTF-8 with commas"
            )
    return DatasetSource(builders[0], {"data_dir": str(folder), **options}, note=note)


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
    said = f"{dataset_name!r} cannot be read: {split.name}/state.json: {reason}"
    raise SourceError(f"dataset_name: {said}")


def longest_input(model_name):
    """Return how many tokens a model reads at most; None if only the Hub or loading can tell."""
    folder = local_model(model_name) or cached_model(model_name)
    if folder is None or not Path(folder, "config.json").is_file():
        return None
    config = _config(folder)
    positions = config.get("max_position_embeddings")
    # RoBERTa and its kin count positions from pad_token_id + 1.
    if positions and "roberta" in config.get("model_type", ""):
        positions -= config.get("pad_token_id", 1) + 1
    return positions


def _config(folder):
    return json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))


def check_is_bert(model_name):
    """Raise SourceError unless the model is a BERT, whose layers the chapter on speed knows."""
    model_type = _config(find_model(model_name)).get("model_type")
    if model_type != "bert":
        raise SourceError(
            f"model_name: chapter 10 speeds up models of type 'bert', but {model_name!r} is of type"
            f" {model_type!r}; chapters 1 to 8 can fine-tune it"
        )


def check_convertible(model_name):
    """Raise SourceError unless `BertBackbone.from_preset` reads this model as it is meant."""
    folder = Path(find_model(model_name))
    config = _config(folder)
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
        " chapters 4 and 8 can fine-tune it"
    )
