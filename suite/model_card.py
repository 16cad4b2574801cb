"""The card of a trained model: what it is, how good it is, how to use it."""

import html
import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from suite.names import PACKAGED_DATASETS, PACKAGED_MODELS, split_hub_name
from suite.runs import is_made_by, locked, made_by, write_json

BODY = """
# {title}

{base} fine-tuned to tell apart {classes}, on {num_train} texts of {data}.

## How good it is

On {num_eval} test texts that nothing was trained on or chosen by:

{figures}

## How to use it

```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder", truncation=True)
classify("A text.")
```

Texts longer than {max_length} tokens were cut in training.

## How it was made

{settings}

Versions: {versions}. The same is in `made_by.json`, for programs.
"""


def write_model_card(folder, settings, figures, classes):
    """Write `README.md`, the model card, and `metrics.json` into the folder of a trained model.

    figures: {"accuracy": 0.8, ...}, measured on the test rows
    classes: (name, precision, recall, F1, rows) of each class

    The card's head is what the Hub reads. Names from the data are shown as text, never as markup.
    Writes nothing, and says so, if another run has put a model of other settings there meanwhile.
    """
    with locked(folder):
        if not is_made_by(folder, made_by(settings, "model")):
            print(
                f"No card is written: another run has put its {folder.name} into {settings.run_dir}."
            )
            return
        _write(folder, settings, figures, classes)


def _write(folder, settings, figures, classes):
    stamp = json.loads((folder / "made_by.json").read_text(encoding="utf-8"))
    names = [_plain(name) for name, *_ in classes]
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=_hub_id(settings.dataset_name) or "own-data",
            dataset_name=Path(settings.dataset_name).name,
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in figures.items()
    ]
    head = ModelCardData(
        model_name=folder.parent.name,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=_hub_id(settings.model_name),
        datasets=_hub_id(settings.dataset_name),
        eval_results=results,
    )
    values = dict(stamp["parameters"])
    values |= {
        name: _hub_id(values[name]) or Path(values[name]).name
        for name in ("model_name", "dataset_name")
    }
    body = BODY.format(
        title=_plain(folder.parent.name),
        base=_shown(settings.model_name),
        classes=", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else ""),
        data=_shown(settings.dataset_name),
        num_train=settings.num_train,
        num_eval=settings.num_eval,
        max_length=settings.max_length,
        figures=_table(("figure", "value"), [(n, f"{v:.3f}") for n, v in figures.items()])
        + "\n\n"
        + _table(
            ("class", "precision", "recall", "F1", "texts"),
            [
                (_plain(name), *(f"{v:.3f}" for v in scores), rows)
                for name, *scores, rows in classes
            ],
        ),
        settings=_table(
            ("parameter", "value"), [(name, _plain(str(value))) for name, value in values.items()]
        ),
        versions=", ".join(f"{name} {number}" for name, number in stamp["versions"].items()),
    )
    ModelCard(f"---\n{head.to_yaml()}\n---\n{body}").save(folder / "README.md")
    write_json(folder / "metrics.json", {**figures, "classes": classes})


def _hub_id(name):
    """Return the Hub's name without its revision, or None of something local."""
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS:
        return name
    return split_hub_name(name)[0] if split_hub_name(name) else None


def _shown(name):
    """Return what the card calls a model or data set: a local one by its last name, not its path."""
    return _plain(_hub_id(name) or Path(name).name)


def _plain(text):
    """Return a text so that Markdown and HTML show it as it is, in one line of a table."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()#+!|~" else sign for sign in text)


def _table(names, rows):
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
