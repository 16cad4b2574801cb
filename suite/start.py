"""The start of a chapter: its parameters are read and checked before anything slow is imported."""

import os
import re
import warnings
from pathlib import Path

from suite.files import check_encoding
from suite.hub import fetch_dataset
from suite.model_folder import check_model_folder
from suite.names import PACKAGED_MODELS, split_hub_name
from suite.resolve import check_pads, find_model, local_model, longest_input
from suite.rows import check_source, find_rows
from suite.runs import check_run_folder
from suite.settings import (
    OF_EVERY_RUN,
    PARAMETERS,
    ParameterError,
    Settings,
    all_sizes,
    check_type_and_range,
    fit_sizes,
    named_as_now,
)

FORMS = {
    "device": (r"auto|cpu|mps|cuda(:\d+)?", "'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'"),
    "long_texts": ("cut|head_tail|windows", "'cut', 'head_tail' or 'windows'"),
    "class_weights": ("none|balanced", "'none' or 'balanced'"),
    "hub_model_id": (r"none|\w[\w.-]*/\w[\w.-]*", "'none' or 'owner/name'"),
}


def check_values(values, with_rows=True):
    """Return Settings for `values` (name -> value); names that are left out keep their default.

    But sizes: those of a small data set are lowered to what it holds.

    with_rows: look at the rows of the data set too
    Raises ParameterError, or SourceError for a model or data set that is not there.
    Reads a packaged or local data file to count its rows; imports nothing heavier than pandas,
    and asks no network: what lies on the Hub is checked by `read_parameters`.
    """
    _quiet_libraries()  # before one of them is imported
    values = named_as_now(values)
    for name, value in values.items():
        check_type_and_range(PARAMETERS[name], value)
    values = {
        name: float(value) if PARAMETERS[name].type is float else value
        for name, value in values.items()
    }
    settings = Settings(**values)
    _check_together(settings)
    if with_rows and not split_hub_name(settings.dataset_name):
        return fit_sizes(settings, _usable_sizes(settings), given=values)
    return settings


def read_parameters(namespace):
    """Return the Settings of a chapter from its `globals()`.

    Takes what the parameters cell assigns and what papermill put behind it. Refuses in one line what
    is unknown, mistyped, out of range or contradictory; see `check_values`. Quiets the libraries' own
    progress bars. A model or data set of the Hub is fetched here, so nothing after it needs the network.
    """
    import tqdm.notebook  # loads ipywidgets where they are

    names = _assigned_names(namespace)
    settings = check_values({name: namespace[name] for name in names})
    # A saved notebook keeps the first state of a widget, a bar at 0 %, and the last one of a text.
    tqdm.notebook.IProgress = None
    check_run_folder(settings)
    _fetch_from_hub(settings)
    for note in find_rows(settings).notes:
        print(note)
    return settings


def _assigned_names(namespace):
    """Names that the parameters cell, and the cells that papermill puts behind it, assign.

    IPython keeps the sources of the cells that ran in `In`, the one that runs now as the last. Unlike
    `globals()` they tell names of the lesson apart when a reader runs the cell again.
    """
    names, injected = [], False
    for source in namespace.get("In", [])[:-1]:
        assigned = re.findall(r"^(\w+)(: *\w+)? *=", source, re.MULTILINE)
        if set(OF_EVERY_RUN) <= {name for name, annotation in assigned if annotation}:
            if injected and not names:
                raise ParameterError(
                    "the values that papermill puts in come before the cell of parameters, which undoes"
                    " them: give that cell the tag 'parameters'"
                )
            names = [name for name, _ in assigned]
        elif source.startswith("# Parameters"):
            injected = True
            names += [name for name, _ in assigned] if names else []
    if names:
        return names
    # A script has no `In`, and a kernel that nbval drives leaves it empty.
    names = [name for name in PARAMETERS if name in namespace]
    if not set(OF_EVERY_RUN) <= set(names):
        raise ParameterError("run the cell tagged 'parameters' first")
    return names


def _check_together(settings):
    if settings.text_column == settings.label_column:
        raise ParameterError(
            f"text_column and label_column are both {settings.text_column!r};"
            " name the column with the class in label_column"
        )
    for name, (form, wanted) in FORMS.items():
        if not re.fullmatch(form, value := getattr(settings, name)):
            raise ParameterError(f"{name} must be {wanted}, but it is {value!r}")
    if settings.batch_size % settings.accumulation_steps:
        raise ParameterError(
            f"accumulation_steps is {settings.accumulation_steps}, which does not divide batch_size"
            f" ({settings.batch_size})"
        )
    if os.path.isfile(os.path.expanduser(settings.run_dir)):
        raise ParameterError(f"run_dir must be a folder, but {settings.run_dir!r} is a file")
    check_source(settings.dataset_name)
    if settings.encoding != "auto":
        check_encoding(settings.encoding)
    folder = local_model(settings.model_name)
    if folder and settings.model_name not in PACKAGED_MODELS:
        check_model_folder(Path(folder), settings.model_name)
    check_pads(settings.model_name)
    _check_max_length(settings)
    if settings.device not in ("auto", "cpu"):
        _check_device(settings.device)


def _check_device(device):
    import torch  # heavy, and not needed to tell that a processor is there

    kind, _, number = device.partition(":")
    there = torch.cuda.device_count() if kind == "cuda" else torch.backends.mps.is_available()
    if int(number or 0) >= there:
        raise ParameterError(f"device {device!r} is not there; set device to 'auto'")


def _usable_sizes(settings):
    """Read a data set, see that its rows will do, and return how many each split has."""
    import pandas as pd  # heavy, and not before the rest is known to be right

    from suite.check import read_rows, usable_rows

    pd.set_option("display.html.use_mathjax", False)  # dollar signs in a table are text
    return all_sizes({name: len(rows) for name, rows in usable_rows(read_rows(settings)).items()})


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
        check_pads(settings.model_name)
        _check_max_length(settings)
    if split_hub_name(settings.dataset_name):
        fetch_dataset(settings.dataset_name)
        fit_sizes(settings, _usable_sizes(settings))


def _quiet_libraries():
    """Leave the only progress bars to the chapters' own loops; no advice, no repeated warnings."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    warnings.filterwarnings("ignore", message="IProgress not found")
    # torch 2.13 says these of its own export to ONNX.
    os.environ.setdefault("TORCH_LOGS", "-onnx")
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    # PEFT 0.21 asks transformers 5.23 for it by its old name.
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
