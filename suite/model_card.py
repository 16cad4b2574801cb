"""The card of a trained model: what it is, how good it is, how to use it."""

import html
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from scipy.stats import binomtest

from suite.names import PACKAGED_DATASETS, PACKAGED_MODELS, split_hub_name
from suite.runs import is_made_by, locked, made_by, write_json

TEMPLATE = Path(__file__).with_suffix(".md")


def write_model_card(folder, settings, figures, classes):
    """Write `README.md`, the model card, and `metrics.json` into the folder of a trained model.

    figures: {"accuracy": 0.8, ...}, measured on the test rows
    classes: (name, precision, recall, F1, rows) of each class

    The card's head is what the Hub reads. Names from the data are shown as text, never as markup.
    Writes nothing, and says so, if another run has put a model of other settings there meanwhile.
    """
    model, data = _hub_id(settings.model_name), _hub_id(settings.dataset_name)
    own = Path(settings.dataset_name).name
    about = {"task_type": "text-classification", "dataset_name": own}
    about["dataset_type"] = data or "own-data"
    head = ModelCardData(
        model_name=folder.parent.name,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=model,
        datasets=data,
        eval_results=[
            EvalResult(**about, metric_type=name, metric_value=round(value, 4))
            for name, value in figures.items()
        ],
    )
    stamp = made_by(settings, "model")
    num_test = sum(texts for *_, texts in classes)
    test = binomtest(round(figures["accuracy"] * num_test), num_test)
    # A local model or data set goes by its last name, not by its path.
    shown = {"model_name": model or Path(settings.model_name).name, "dataset_name": data or own}
    parameters = {name: _plain(value) for name, value in (stamp["parameters"] | shown).items()}
    card = ModelCard.from_template(
        head,
        template_path=str(TEMPLATE),
        title=_plain(folder.parent.name),
        base=parameters["model_name"],
        data=parameters["dataset_name"],
        names=[_plain(name) for name, *_ in classes],
        classes=[(_plain(name), *scores) for name, *scores in classes],
        num_test=num_test,
        figures=figures,
        long_texts=settings.long_texts,
        interval=test.proportion_ci(0.95, method="wilson"),
        parameters=parameters,
        versions=stamp["versions"],
    )
    with locked(folder):
        if not is_made_by(folder, stamp):
            said = f"another run has put its {folder.name} into {settings.run_dir}"
            print(f"No card is written: {said}.")
            return
        card.save(folder / "README.md")
        write_json(folder / "metrics.json", {**figures, "classes": classes})


def _hub_id(name):
    """Return the Hub's name without its revision, or None of something local."""
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS:
        return name
    return split_hub_name(name)[0] if split_hub_name(name) else None


def _plain(text):
    """Return a text so that Markdown and HTML show it as it is, in one line of a table."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()#+!|~" else sign for sign in text)
