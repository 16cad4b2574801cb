"""The parameters of every chapter: names, types, meanings, defaults, ranges.

`Settings` is the one list. The `parameters` cell of a chapter shows those that its own cells use.
"""

import difflib
import math
from dataclasses import dataclass, field, fields, replace

from suite.errors import UserError

# Share of the rows that chapter 01 puts aside as test rows, and again as validation rows.
HELD_OUT = 0.15
# What every chapter has, whether its cells use it or not.
OF_EVERY_RUN = ("seed", "run_dir")
SIZES = ("num_train", "num_validation", "num_test")


class ParameterError(UserError):
    """A parameter that is unknown, mistyped, out of range or at odds with another."""


def _parameter(decides, default, meaning, low=None, high=None):
    """A field of Settings with its meaning and the range low..high, both ends allowed.

    decides: what depends on it: the "rows", the "test" rows alone, the "model", or "nothing" that is kept
    """
    metadata = {"decides": decides, "meaning": meaning, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The checked parameters of a chapter, as attributes: `settings.num_epochs`."""

    model_name: str = _parameter(
        "rows", "sentence-transformers/all-MiniLM-L6-v2", "Hub id or model folder"
    )
    dataset_name: str = _parameter(
        "rows", "cornell-movie-review-data/rotten_tomatoes", "Hub id or CSV, JSON, Parquet"
    )
    text_column: str = _parameter("rows", "text", "column that holds the text")
    label_column: str = _parameter("rows", "label", "column that holds the class")
    encoding: str = _parameter(
        "rows", "auto", "encoding of a text file, such as 'gb18030'; 'auto' tells UTF-8 and others"
    )
    num_train: int = _parameter("rows", 1000, "rows to train on", 2, 1_000_000)
    num_validation: int = _parameter(
        "rows", 500, "rows by which the best model is chosen", 2, 1_000_000
    )
    num_test: int = _parameter(
        "test", 1000, "test rows, used for the final figures alone", 2, 1_000_000
    )
    max_length: int = _parameter(
        "rows", 512, "tokens (word pieces) a text; longer texts are cut", 4, 8192
    )
    long_texts: str = _parameter(
        "rows", "cut", "'cut', 'head_tail' or 'windows': texts over max_length, see chapter 15"
    )
    batch_size: int = _parameter("model", 16, "texts a step", 1, 1024)
    group_by_length: bool = _parameter("model", True, "batch texts of like length: True or False")
    learning_rate: float = _parameter("model", 1e-4, "learning rate after warm-up", 1e-8, 1.0)
    weight_decay: float = _parameter(
        "model", 0.01, "how strongly weights are pulled towards 0", 0.0, 1.0
    )
    warmup_ratio: float = _parameter(
        "model", 0.1, "share of the steps in which the learning rate rises", 0.0, 1.0
    )
    max_grad_norm: float = _parameter(
        "model", 1.0, "gradients longer than this are scaled down", 0.001, 1000.0
    )
    num_epochs: int = _parameter("model", 3, "passes over the training rows", 1, 1000)
    accumulation_steps: int = _parameter(
        "model", 1, "parts in which a batch is computed, to save memory", 1, 1024
    )
    early_stopping: int = _parameter(
        "model", 0, "epochs without a better loss that end training, 0 never", 0, 1000
    )
    attention_dropout: float = _parameter(
        "model", 0.0, "links between words left out at random; 0 is fastest", 0.0, 0.9
    )
    class_weights: str = _parameter(
        "model", "none", "'none', or 'balanced': rows of a rare class count more"
    )
    device: str = _parameter(
        "model", "auto", "'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:0' or 'mps'"
    )
    save_steps: int = _parameter(
        "nothing", 100, "steps between checkpoints, to go on from after a crash", 1, 1_000_000
    )
    seed: int = _parameter("rows", 42, "seed of everything random", 0, 2**32 - 1)
    hub_model_id: str = _parameter(
        "nothing", "none", "owner/name on the Hub that chapter 12 pushes the model to, or 'none'"
    )
    run_dir: str = _parameter(
        "nothing", "runs/default", "folder for results, seen from the project's root"
    )


PARAMETERS = {f.name: f for f in fields(Settings)}
# Names of before, still taken.
RENAMED = {"num_eval": "num_test"}
DATA_PARAMETERS = {n for n, f in PARAMETERS.items() if f.metadata["decides"] in ("rows", "test")}
MODEL_PARAMETERS = {n for n, f in PARAMETERS.items() if f.metadata["decides"] in ("rows", "model")}


def parameters_cell(names=PARAMETERS):
    """Return the source of the cell tagged `parameters` of a chapter that uses these names."""
    lines = []
    for name, parameter in PARAMETERS.items():
        if name not in names and name not in OF_EVERY_RUN:
            continue
        comment = parameter.metadata["meaning"]
        if parameter.metadata["low"] is not None:
            comment += f"; {parameter.metadata['low']} to {parameter.metadata['high']}"
        default = parameter.default
        literal = f'"{default}"' if isinstance(default, str) else repr(default)
        lines.append(f"{name}: {parameter.type.__name__} = {literal}  # {comment}")
    return "\n".join(lines)


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


def named_as_now(values):
    """Return parameters under their names of today, and say which have another name now.

    Raises ParameterError if one of the names is no parameter.
    """
    for name in values:
        if name in PARAMETERS:
            continue
        if name in RENAMED:
            print(f"{name} is called {RENAMED[name]} now")
            continue
        near = difflib.get_close_matches(str(name).lower(), PARAMETERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PARAMETERS)}"
        raise ParameterError(f"unknown parameter {name!r}; {hint}")
    return {RENAMED.get(name, name): value for name, value in values.items()}


KINDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
KINDS |= {type(None): "nothing"}


def check_type_and_range(parameter, value):
    """Raise ParameterError unless a value suits its field of `Settings`."""
    name, wanted, given = parameter.name, parameter.type, type(value)
    if given is not wanted and not (wanted is float and given is int):
        hint = ""
        if wanted is str and given in (int, float, bool):
            hint = "; with papermill give it by -r instead of -p, in YAML put it in quotes"
        elif wanted is float and given is str and "e" in value:
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


def fit_sizes(settings, available, given=SIZES):
    """Return settings that ask for no more rows than there are.

    available: usable rows for training, validation and test
    given: names of sizes that were asked for; these are not lowered

    Raises ParameterError if one of them is larger than what there is, or if there is hardly a row.
    """
    there = dict(zip(SIZES, available, strict=True))
    for name, rows in there.items():
        if getattr(settings, name) <= rows:
            continue
        if name in given or rows < PARAMETERS[name].metadata["low"]:
            raise ParameterError(
                f"{name} is {getattr(settings, name)}, but {settings.dataset_name!r} has {rows} rows for it"
                f" (train {available[0]}, validation {available[1]}, test {available[2]});"
                f" set {name} to {rows} or less"
            )
        settings = replace(settings, **{name: rows})
    return settings
