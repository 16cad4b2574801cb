"""The start of a chapter: its parameters are read and checked before anything slow is imported."""

import ast
import os
import re
import warnings
from pathlib import Path

from suite.hub import fetch_dataset
from suite.model_folder import check_model_folder
from suite.names import PACKAGED_MODELS, split_hub_name
from suite.resolve import find_dataset, find_model, local_model, longest_input
from suite.runs import check_run_folder
from suite.settings import (
    OF_EVERY_RUN,
    PARAMETERS,
    ParameterError,
    Settings,
    all_sizes,
    check_enough_rows,
    check_names,
    check_type_and_range,
)


def check_values(values, with_rows=True):
    """Return Settings for `values` (name -> value); names that are left out keep their default.

    with_rows: look at the rows of the data set too
    Raises ParameterError, or SourceError for a model or data set that is not there.
    Reads a packaged or local data file to count its rows; imports nothing heavier than pandas,
    and asks no network: what lies on the Hub is checked by `read_parameters`.
    """
    check_names(values)
    for name, value in values.items():
        check_type_and_range(PARAMETERS[name], value)
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

    Takes what the parameters cell assigns and what papermill put behind it. Refuses in one line what
    is unknown, mistyped, out of range or contradictory; see `check_values`. Quiets the libraries' own
    progress bars. A model or data set of the Hub is fetched here, so nothing after it needs the network.
    """
    names = _assigned_names(namespace)
    check_names(names)
    _quiet_libraries()  # before the check imports one of them
    settings = check_values({name: namespace[name] for name in names})
    check_run_folder(settings)
    _fetch_from_hub(settings)
    if not split_hub_name(settings.dataset_name) and find_dataset(settings.dataset_name).note:
        print(find_dataset(settings.dataset_name).note)
    return settings


def _assigned_names(namespace):
    """Names that the parameters cell, and the cell that papermill puts behind it, assign.

    IPython keeps the source of the cells that ran in `In`; its last entry is the cell that runs now.
    Looking at sources and not at `globals()` keeps names of the lesson out when a reader runs the
    cell again.
    """
    names = []
    for source in reversed(namespace.get("In", [])[:-1]):
        assigned = _literal_assignments(source)
        names = [*assigned, *names] if assigned else []
        if set(OF_EVERY_RUN) <= {name for name, annotated in assigned.items() if annotated}:
            return names
    raise ParameterError("run the cell tagged 'parameters' first")


def _literal_assignments(source):
    """{name: whether it has an annotation} that `source` assigns literals to; {} if it does anything else."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return {}
    names = {}
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            return {}
        if not isinstance(target, ast.Name) or not _is_literal(statement.value):
            return {}
        names[target.id] = isinstance(statement, ast.AnnAssign)
    return names


def _is_literal(node):
    # papermill writes not-a-number and infinity as a call of float.
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
        return True
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


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
    import pandas as pd  # heavy, and not before the rest is known to be right

    from suite.check import read_rows, usable_rows

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
        fetch_dataset(settings.dataset_name)
        _check_rows(settings)


def _quiet_libraries():
    """Leave the only progress bars to the chapters' own loops; no advice, no repeated warnings."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    warnings.filterwarnings("ignore", message="IProgress not found")
