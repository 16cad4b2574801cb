"""What chapter 07 teaches: a rare class, several labels, predictions for a file, a model on the Hub."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hub_stand_in import HubStandIn
from lessons import rows_of, run_here, train
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import roads
from conftest import SMOKE
from helpers.batches import make_dataloader, to_model_inputs
from helpers.evaluation import choose_thresholds
from helpers.training import balance_weights, evaluate_model, weighted_loss
from suite.start import check_values

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = ROOT / "notebooks" / "07_your_own_data.ipynb"


@pytest.fixture
def unbalanced(tmp_path):
    """Settings of a file with 90 good reviews and 18 bad ones."""
    rows = [{"text": f"review number {n}, fine", "label": "good"} for n in range(90)]
    rows += [{"text": f"review number {n}, dull", "label": "bad"} for n in range(18)]
    pd.DataFrame(rows).to_csv(tmp_path / "reviews.csv", index=False)
    own = {"dataset_name": str(tmp_path / "reviews.csv"), "run_dir": str(tmp_path / "run")}
    return check_values({**SMOKE, **own, "num_validation": 13, "num_eval": 16, "num_train": 64})


def test_the_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = balance_weights(labels, 3)
    assert weights.numpy() == pytest.approx(expected)
    assert weights[labels].mean() == pytest.approx(1)


def test_a_class_without_a_row_has_a_finite_weight():
    assert torch.isfinite(balance_weights([0, 0, 2], 3)).all()


def test_weights_change_the_loss_alone():
    logits = torch.tensor([[1.0, -1.0], [0.5, 0.5], [-1.0, 2.0]], requires_grad=True)
    labels = torch.tensor([0, 1, 0])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([0.6, 3.0])
    weighted = weighted_loss(logits, labels, weights).item()
    assert weighted == pytest.approx((weights[labels] * each).mean().item())


@pytest.mark.parametrize("road", ["model", "trainer"])
def test_weights_reach_the_road(unbalanced, road):
    """With a loss that the frequent class has less of, the rare one becomes more probable."""
    shares = {}
    for choice in ("none", "balanced"):
        settings = replace(
            unbalanced,
            class_weights=choice,
            run_dir=f"{unbalanced.run_dir}-{choice}",
            learning_rate=5e-5,
        )
        folder = train(road, settings)
        rows = rows_of(settings)["eval"]
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        inputs = {"input_ids": torch.tensor([rows[0]["input_ids"]])}
        with torch.no_grad():
            shares[choice] = model(**inputs).logits.softmax(dim=-1)[0, 0].item()
        assert model.config.id2label[0] == "bad"
    assert shares["balanced"] > shares["none"] + 0.02


@pytest.mark.parametrize("road, number", [("model", "04"), ("trainer", "08")])
def test_the_best_epoch_is_chosen_by_the_plain_loss(unbalanced, road, number):
    settings = replace(unbalanced, class_weights="balanced")
    folder = train(road, settings)
    names = run_here(number, settings, until="save-model")
    rows = to_model_inputs(rows_of(settings))["validation"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    loss, _ = evaluate_model(model, make_dataloader(rows, tokenizer, 8), torch.device("cpu"))
    if road == "model":
        chosen = min(loss for loss, _ in names["checkpoints"].epochs)
    else:
        chosen = names["trainer"].state.best_metric
    assert chosen == pytest.approx(loss, abs=1e-5)


def test_weights_reach_keras(unbalanced, monkeypatch):
    keras = pytest.importorskip("helpers.keras_road").keras
    given = {}

    def fit(self, *args, **kwargs):
        given.update(kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", fit)
    monkeypatch.setattr(roads, "get_roads", lambda *arguments, **others: {})
    monkeypatch.setattr(roads, "largest_difference", lambda *arguments: 0.0)
    settings = replace(unbalanced, class_weights="balanced")
    labels = rows_of(settings)["train"]["label"]
    with pytest.raises(KeyboardInterrupt):
        run_here("09", settings)
    weights = balance_weights(labels, 2).tolist()
    assert given["class_weight"] == pytest.approx(dict(enumerate(weights)))


def test_the_thresholds_are_the_best_ones():
    draw = np.random.default_rng(0)
    truth = draw.random((200, 3)) < [0.5, 0.1, 0.0]
    probabilities = np.clip(truth * 0.2 + draw.random((200, 3)) * 0.35, 0, 1)
    thresholds = choose_thresholds(probabilities, truth)
    for label in (0, 1):
        best = max(
            f1_score(truth[:, label], probabilities[:, label] >= value)
            for value in np.linspace(0, 1, 2001)
        )
        chosen = f1_score(truth[:, label], probabilities[:, label] >= thresholds[label])
        assert chosen >= best - 1e-12
        assert chosen > f1_score(truth[:, label], probabilities[:, label] >= 0.5)
    assert thresholds[2] == 0.5


def test_the_thresholds_of_the_chapter_come_from_validation_rows():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "score-topics")
    (call,) = (line for line in source.splitlines() if "choose_thresholds" in line)
    assert 'loaders["validation"]' in call


TEXTS = ["عمل رائع جدا", "Great 😀 film", "Ganz nett", 'He said "no",\nand left.', "سيئ", "Dull"]
ELSEWHERE = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

name, out = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(name)
with torch.no_grad():
    logits = model(**AutoTokenizer.from_pretrained(name)("A film.", return_tensors="pt")).logits
save_file({"logits": logits}, out)
"""


def test_the_chapter_takes_an_own_file_and_puts_the_model_on_the_hub(tmp_path, loopback):
    rows = [
        {"comment": f"{text} {n}", "stars": stars}
        for n in range(40)
        for stars, text in zip((1, 2, 3, 3, 3, 1), TEXTS, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False, encoding="utf-16")
    command = [sys.executable, "-m", "suite", "run", "07", "-f", "parameters/smoke.yaml"]
    command += ["-p", "run_dir", tmp_path / "run", "-p", "dataset_name", tmp_path / "mine.csv"]
    command += ["-p", "text_column", "comment", "-p", "label_column", "stars"]
    command += ["-p", "hub_model_id", "me/mine"]
    with HubStandIn({}) as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": "hf_x",
            "HF_HOME": str(tmp_path / "home"),
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        _, files = hub.repositories["models", "me/mine"].find("main")
        assert hub.private["models", "me/mine"]
        there = [sys.executable, "-c", ELSEWHERE]
        for name in ("me/mine", tmp_path / "run" / "balanced" / "model"):
            out = tmp_path / f"{Path(name).name}.safetensors"
            subprocess.run([*there, name, out], env=environment, check=True, capture_output=True)
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("mine", "model"))
    assert torch.equal(one["logits"], other["logits"])
    card = files["README.md"].decode()
    assert "| class | precision | recall | F1 | texts |" in card
    assert not any(str(tmp_path).encode() in content for content in files.values())
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(predictions) == ["id", "review", "prediction", "confidence"]
    assert predictions["review"][1] == "Boring, and far too long. 😴"
    assert set(predictions["prediction"].astype(str)) <= {"1", "2", "3"}
    assert predictions["confidence"].between(0.3, 1).all()
