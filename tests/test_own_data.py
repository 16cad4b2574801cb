"""What chapter 10 teaches: a rare class, several labels, predictions for a file, a model on the Hub."""

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
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoModelForSequenceClassification

from conftest import SMOKE
from helpers.data import prepare_data
from helpers.evaluation import choose_thresholds
from helpers.parameters import check_values
from helpers.trainer_road import train_with_trainer
from helpers.training import balance_weights, load_model, train_model, weigh_classes

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = ROOT / "notebooks" / "10_your_own_data.ipynb"


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


def test_weights_change_the_loss_and_nothing_else(unbalanced):
    rows = prepare_data(unbalanced)["train"]
    model = load_model(unbalanced.model_name, rows.features["label"], 0.0, 0).eval()
    batch = {"input_ids": torch.tensor([[101, 2204, 102], [101, 2919, 102]])}
    labels = torch.tensor([0, 1])
    before = model(**batch, labels=labels)
    weigh_classes(model, rows["label"], "none")
    assert torch.equal(model(**batch, labels=labels).loss, before.loss)
    weigh_classes(model, rows["label"], "balanced")
    after = model(**batch, labels=labels)
    assert torch.equal(after.logits, before.logits)
    weights = balance_weights(rows["label"], 2)
    each = torch.nn.functional.cross_entropy(after.logits, labels, reduction="none")
    assert after.loss.item() == pytest.approx((weights * each).mean().item())
    assert model(**batch).loss is None


@pytest.mark.parametrize("train, road", [(train_model, "model"), (train_with_trainer, "trainer")])
def test_weights_reach_the_road(unbalanced, train, road):
    """With a loss that the frequent class has less of, the rare one becomes more probable."""
    shares = {}
    for choice in ("none", "balanced"):
        settings = replace(
            unbalanced,
            class_weights=choice,
            run_dir=f"{unbalanced.run_dir}-{choice}",
            learning_rate=5e-5,
        )
        train(settings)
        rows = prepare_data(settings)["eval"]
        folder = Path(settings.run_dir, road)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        inputs = {"input_ids": torch.tensor([rows[0]["input_ids"]])}
        with torch.no_grad():
            shares[choice] = model(**inputs).logits.softmax(dim=-1)[0, 0].item()
        assert model.config.id2label[0] == "bad"
    assert shares["balanced"] > shares["none"] + 0.02


def test_weights_reach_keras(unbalanced, monkeypatch):
    pytest.importorskip("keras_hub")
    from helpers import keras_road

    given = {}

    def fit(self, *args, **kwargs):
        given.update(kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(keras_road.keras.Model, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        keras_road.train_with_keras(replace(unbalanced, class_weights="balanced"))
    labels = prepare_data(unbalanced)["train"]["label"]
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


def test_chapter_10_takes_an_own_file_and_puts_the_model_on_the_hub(tmp_path, loopback):
    rows = [
        {"comment": f"{text} {n}", "stars": stars}
        for n in range(40)
        for stars, text in zip((1, 2, 3, 3, 3, 1), TEXTS, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False, encoding="utf-16")
    command = [sys.executable, "-m", "helpers.runner", "10", "-f", "parameters/smoke.yaml"]
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
