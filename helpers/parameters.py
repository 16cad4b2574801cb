"""The parameters of every chapter: names, types, meanings, defaults, ranges.

`Settings` is the one list. The `parameters` cell of each chapter is
`parameters_cell()`, and `read_parameters(globals())` checks what stands in it,
and what papermill put behind it, before anything slow is imported.
"""

import ast
import difflib
import math
import os
import re
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

from helpers.errors import UserError
from helpers.model_folder import check_model_folder
from helpers.sources import (
    PACKAGED_MODELS,
    find_dataset,
    find_model,
    local_model,
    longest_input,
    split_hub_name,
)

# Share of the rows that chapter 01 puts aside as test rows, and again as validation rows.
HELD_OUT = 0.15


class ParameterError(UserError):
    """A parameter that is unknown, mistyped, out of range or at odds with another."""


def _parameter(default, meaning, low=None, high=None):
    """A field of Settings with its meaning and the range low..high, both ends allowed."""
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """The checked parameters of a chapter, as attributes: `settings.num_epochs`."""

    model_name: str = _parameter("sentence-transformers/all-MiniLM-L6-v2", "Hub id or model folder")
    dataset_name: str = _parameter(
        "cornell-movie-review-data/rotten_tomatoes", "Hub id or CSV, JSON, Parquet"
    )
    text_column: str = _parameter("text", "column that holds the text")
    label_column: str = _parameter("label", "column that holds the class")
    num_train: int = _parameter(1000, "rows to train on", 2, 1_000_000)
    num_validation: int = _parameter(500, "rows that choose the best epoch", 2, 1_000_000)
    num_eval: int = _parameter(1000, "test rows, used for the final figures alone", 2, 1_000_000)
    max_length: int = _parameter(512, "tokens a text; longer texts are cut", 4, 8192)
    batch_size: int = _parameter(16, "texts a step", 1, 1024)
    group_by_length: bool = _parameter(True, "batch texts of like length: True or False")
    learning_rate: float = _parameter(1e-4, "learning rate after warm-up", 1e-8, 1.0)
    weight_decay: float = _parameter(0.01, "weight decay, not for biases and norms", 0.0, 1.0)
    warmup_ratio: float = _parameter(
        0.1, "share of the steps in which the learning rate rises", 0.0, 1.0
    )
    max_grad_norm: float = _parameter(
        1.0, "gradients longer than this are scaled down", 0.001, 1000.0
    )
    num_epochs: int = _parameter(3, "passes over the training rows", 1, 1000)
    attention_dropout: float = _parameter(
        0.0, "dropout of attention weights; 0 is fastest on a CPU", 0.0, 0.9
    )
    class_weights: str = _parameter(
        "none", "'none', or 'balanced': rows of a rare class count more"
    )
    device: str = _parameter(
        "auto", "'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:0' or 'mps'"
    )
    save_steps: int = _parameter(
        100, "steps between checkpoints, to go on from after a crash", 1, 1_000_000
    )
    seed: int = _parameter(42, "seed of everything random", 0, 2**32 - 1)
    hub_model_id: str = _parameter(
        "none", "owner/name on the Hub that chapter 10 pushes the model to, or 'none'"
    )
    run_dir: str = _parameter("runs/default", "folder for results, seen from the project's root")


PARAMETERS = {f.name: f for f in fields(Settings)}


def parameters_cell():
    """Return the source of the cell tagged `parameters`, the same in every chapter."""
    lines = []
    for name, parameter in PARAMETERS.items():
        comment = parameter.metadata["meaning"]
        if parameter.metadata["low"] is not None:
            comment += f"; {parameter.metadata['low']} to {parameter.metadata['high']}"
        default = parameter.default
        literal = f'"{default}"' if isinstance(default, str) else repr(default)
        lines.append(f"{name}: {parameter.type.__name__} = {literal}  # {comment}")
    return "\n".join(lines)


def check_values(values, with_rows=True):
    """Return Settings for `values` (name -> value); names that are left out keep their default.

    with_rows: look at the rows of the data set too
    Raises ParameterError, or SourceError for a model or data set that is not there.
    Reads a packaged or local data file to count its rows; imports nothing heavier than pandas,
    and asks no network: what lies on the Hub is checked by `read_parameters`.
    """
    for name in values:
        if name not in PARAMETERS:
            raise ParameterError(_unknown(name))
    for name, value in values.items():
        _check_type_and_range(PARAMETERS[name], value)
    values = {
        name: float(value) if PARAMETERS[name].type is float else value
        for name, value in values.items()
    }
    settings = Settings(**values)
    _check_together(settings)
    if with_rows and not split_hub_name(settings.dataset_name):
        _check_rows(settings)
    return settings


def read_parameters(namespace):
    """Return the Settings of a chapter from its `globals()`.

    Refuses in one line what is unknown, missing, mistyped, out of range or
    contradictory; see `check_values`. Quiets the libraries' own progress bars.
    A model or data set of the Hub is fetched here, so nothing after it needs the network.
    """
    for name in _assigned_names(namespace):
        if name not in PARAMETERS:
            raise ParameterError(_unknown(name))
    for name in PARAMETERS:
        if name not in namespace:
            raise ParameterError(
                f"parameter {name!r} is missing: run the cell tagged 'parameters' first"
            )
    _quiet_libraries()  # before the check imports one of them
    settings = check_values({name: namespace[name] for name in PARAMETERS})
    from helpers.runs import check_run_folder  # imports this module

    check_run_folder(settings)
    _fetch_from_hub(settings)
    if not split_hub_name(settings.dataset_name) and find_dataset(settings.dataset_name).note:
        print(find_dataset(settings.dataset_name).note)
    return settings


def all_sizes(sizes):
    """Return (train, validation, test) rows, when chapter 01 has made the splits that are missing.

    sizes: rows of each split that the data set brings
    """
    sizes = dict(sizes)
    for name in ("test", "validation"):
        if name not in sizes:
            sizes[name] = math.ceil(sizes["train"] * HELD_OUT)
            sizes["train"] -= sizes[name]
    return sizes["train"], sizes["validation"], sizes["test"]


def _assigned_names(namespace):
    """Names that the parameters cell, and the cell that papermill puts behind it, assign.

    IPython keeps the source of the cells that ran in `In`; its last entry is the
    cell that runs now. Looking at sources and not at `globals()` keeps a second
    run in Jupyter, when all the names of the lesson exist, from being refused.
    """
    names = []
    for source in reversed(namespace.get("In", [])[:-1]):
        targets = _literal_assignments(source)
        if targets is None:
            break
        names = targets + names
        if set(PARAMETERS) <= set(targets):
            break
    return names


def _literal_assignments(source):
    """Names that `source` assigns literals to, or None if it does anything else."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return None
    names = []
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            return None
        if not isinstance(target, ast.Name) or not _is_literal(statement.value):
            return None
        names.append(target.id)
    return names or None


def _is_literal(node):
    # papermill writes not-a-number and infinity as a call of float.
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
        return True
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def _unknown(name):
    near = difflib.get_close_matches(name.lower(), PARAMETERS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PARAMETERS)}"
    return f"unknown parameter {name!r}; {hint}"


KINDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}


def _check_type_and_range(parameter, value):
    name, wanted, given = parameter.name, parameter.type, type(value)
    if given is not wanted and not (wanted is float and given is int):
        hint = ""
        if wanted is str and given in (int, float, bool):
            hint = f"; with papermill write -r {name} {value}"
        elif wanted is float and given is str:
            hint = "; in YAML write 1.0e-4, not 1e-4"
        raise ParameterError(
            f"{name} must be {KINDS[wanted]}, but {value!r} is {KINDS.get(given, given.__name__)}{hint}"
        )
    if wanted is str:
        if not value.strip() or any(ord(character) < 32 for character in value):
            raise ParameterError(
                f"{name} must be text of printable characters, not blank, but it is {value[:80]!r}"
            )
        if len(value) > 1000:
            raise ParameterError(
                f"{name} must have at most 1000 characters, but it has {len(value)}: {value[:40]!r}…"
            )
        return
    low, high = parameter.metadata["low"], parameter.metadata["high"]
    if low is not None and not low <= value <= high:
        raise ParameterError(f"{name} must be between {low} and {high}, but it is {value!r}")


def _check_together(settings):
    if settings.text_column == settings.label_column:
        raise ParameterError(
            f"text_column and label_column are both {settings.text_column!r};"
            " name the column with the class in label_column"
        )
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", settings.device):
        raise ParameterError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps', but it is {settings.device!r}"
        )
    if settings.class_weights not in ("none", "balanced"):
        raise ParameterError(
            f"class_weights must be 'none' or 'balanced', but it is {settings.class_weights!r}"
        )
    if not re.fullmatch(r"none|\w[\w.-]*/\w[\w.-]*", settings.hub_model_id):
        raise ParameterError(
            f"hub_model_id must be 'none' or 'owner/name', but it is {settings.hub_model_id!r}"
        )
    if os.path.isfile(os.path.expanduser(settings.run_dir)):
        raise ParameterError(f"run_dir must be a folder, but {settings.run_dir!r} is a file")
    find_dataset(settings.dataset_name)
    folder = local_model(settings.model_name)
    if folder and settings.model_name not in PACKAGED_MODELS:
        check_model_folder(Path(folder), settings.model_name)
    _check_max_length(settings)


def _check_rows(settings):
    """Read a data set and see that its rows will do."""
    import pandas as pd  # when the rest is known to be right

    from helpers.check import read_rows, usable_rows

    _quiet_libraries()
    pd.set_option("display.html.use_mathjax", False)  # dollar signs in a table are text
    sizes = {name: len(rows) for name, rows in usable_rows(read_rows(settings)).items()}
    check_enough_rows(settings, *all_sizes(sizes))


def _check_max_length(settings):
    limit = longest_input(settings.model_name)
    if limit and settings.max_length > limit:
        raise ParameterError(
            f"max_length is {settings.max_length}, but {settings.model_name!r} reads at most {limit} tokens;"
            f" set max_length to {limit} or less"
        )


def _fetch_from_hub(settings):
    """Download what lies on the Hub, the smaller part first, and check it against the settings."""
    if split_hub_name(settings.model_name):
        find_model(settings.model_name)
        _check_max_length(settings)
    if split_hub_name(settings.dataset_name):
        from helpers.hub import fetch_dataset

        dataset = fetch_dataset(settings.dataset_name)
        from helpers.data import check_columns  # heavy, so not before the download is here

        check_columns(dataset, settings)
        _check_rows(settings)


def check_enough_rows(settings, num_train, num_validation, num_test):
    """Raise ParameterError if the settings ask for more rows than the three splits hold."""
    there = {"num_train": num_train, "num_validation": num_validation, "num_eval": num_test}
    for name, available in there.items():
        asked = getattr(settings, name)
        if asked > available:
            raise ParameterError(
                f"{name} is {asked}, but {settings.dataset_name!r} has {available} rows for it"
                f" (train {num_train}, validation {num_validation}, test {num_test}); set {name} to {available} or less"
            )


def _quiet_libraries():
    """Leave the only progress bars to the chapters' own loops; no advice, no repeated warnings."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    warnings.filterwarnings("ignore", message="IProgress not found")
