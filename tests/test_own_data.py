"""What chapter 07 teaches: a rare class, several labels, what a model's folder needs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from lessons import cells_of, chapter, make_here, rows_of, run_here, run_python
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from benchmarks import roads
from conftest import ROOT, SMOKE
from helpers.batches import make_dataloader, to_model_inputs
from helpers.evaluation import choose_thresholds, evaluate_model, predict
from helpers.training import balance_weights, weighted_loss
from suite.start import check_values

pytestmark = pytest.mark.slow


@pytest.fixture
def unbalanced(tmp_path):
    rows = [{"text": f"review number {n}, fine", "label": "good"} for n in range(90)]
    rows += [{"text": f"review number {n}, dull", "label": "bad"} for n in range(18)]
    pd.DataFrame(rows).to_csv(tmp_path / "reviews.csv", index=False)
    own = {"dataset_name": str(tmp_path / "reviews.csv"), "run_dir": str(tmp_path / "balanced")}
    own |= {"num_validation": 13, "num_test": 16, "num_train": 64, "num_epochs": 2}
    return check_values({**SMOKE, **own, "class_weights": "balanced", "learning_rate": 5e-5})


def test_the_weights_are_those_of_scikit_learn_and_change_the_loss_alone():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = balance_weights(labels, 3)
    assert weights.numpy() == pytest.approx(expected)
    assert weights[labels].mean() == pytest.approx(1)
    assert torch.isfinite(balance_weights([0, 0, 2], 3)).all()  # a class without a row
    logits = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, 1.0], [-1.0, 2.0, 0.0]])
    labels = torch.tensor([0, 1, 0])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    weighted = weighted_loss(logits, labels, weights).item()
    assert weighted == pytest.approx((weights[labels] * each).mean().item())


@pytest.mark.parametrize("road, number", [("model", "04"), ("trainer", "08")])
def test_weights_reach_the_road_and_the_plain_loss_chooses_the_best_epoch(unbalanced, road, number):
    """With a loss that the frequent class has less of, the rare one becomes more probable."""
    shares, run_dir = [], f"{unbalanced.run_dir}-no"
    plain = replace(unbalanced, class_weights="none", run_dir=run_dir)
    for settings in (plain, unbalanced):
        rows = to_model_inputs(rows_of(settings))["validation"]
        names = run_here(number, settings, until="save-model")
        folder = Path(settings.run_dir, road)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.id2label[0] == "bad"
        loader = make_dataloader(rows, AutoTokenizer.from_pretrained(folder), 8)
        loss, _ = evaluate_model(model, loader, model.device)
        if road == "model":
            chosen = min(loss for loss, _ in names["checkpoints"].epochs)
        else:
            chosen = names["trainer"].state.best_metric
        assert chosen == pytest.approx(loss, abs=1e-5)
        shares.append(predict(model, loader, model.device)[:, 0].mean())
    assert shares[1] > shares[0] + 0.02


def test_weights_reach_keras(unbalanced, monkeypatch):
    keras = pytest.importorskip("helpers.keras_road").keras
    fit = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(keras.Model, "fit", fit)
    nothing = dict.fromkeys(roads.ROADS, {"losses": [0.0], "logits": [0.0]})
    monkeypatch.setattr(roads, "get_roads", lambda *arguments, **others: nothing)
    weights = balance_weights(rows_of(unbalanced)["train"]["label"][:], 2).tolist()
    with pytest.raises(KeyboardInterrupt):
        run_here("09", unbalanced)
    assert fit.call_args.kwargs["class_weight"] == pytest.approx(dict(enumerate(weights)))


def test_the_thresholds_are_the_best_ones():
    draw = np.random.default_rng(0)
    truth = draw.random((200, 3)) < [0.5, 0.1, 0.0]
    probabilities = np.clip(truth * 0.2 + draw.random((200, 3)) * 0.35, 0, 1)
    thresholds = choose_thresholds(probabilities, truth)
    for label in (0, 1):
        chosen, half, *others = (
            f1_score(truth[:, label], probabilities[:, label] >= value)
            for value in (thresholds[label], 0.5, *np.linspace(0, 1, 2001))
        )
        assert chosen >= max(others) - 1e-12 and chosen > half
    assert thresholds[2] == 0.5


def test_the_thresholds_of_the_chapter_come_from_validation_rows():
    cell = cells_of(chapter("07"))["score-topics"]
    assert 'choose_thresholds(*answer(loaders["validation"]))' in cell.source


TEXTS = ["عمل رائع جدا", "Great 😀 film", "Ganz nett", 'He said "no",\nand left.', "سيئ", "Dull"]


def test_the_chapter_takes_an_own_file(tmp_path, monkeypatch):
    comments = [f"{text} {n}" for n in range(40) for text in TEXTS]
    rows = pd.DataFrame({"comment": comments, "stars": [1, 2, 3, 3, 3, 1] * 40})
    rows.to_csv(tmp_path / "mine.csv", index=False, encoding="utf-16")
    own = {"dataset_name": str(tmp_path / "mine.csv"), "text_column": "comment"}
    own |= {"label_column": "stars", "run_dir": str(tmp_path / "run")}
    make_here(monkeypatch)
    run_here("07", check_values({**SMOKE, **own}))
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(predictions) == ["id", "review", "label", "confidence"]
    assert predictions["review"][1] == "Boring, and far too long. 😴"
    assert set(predictions["label"].astype(str)) <= {"1", "2", "3"}
    assert predictions["confidence"].between(0.3, 1).all()


FILMS = ["A wonderful film.", "Dull, badly acted and far too long."]


def test_the_folder_of_a_model_is_all_that_it_needs_elsewhere(tmp_path, monkeypatch):
    """Chapter 05 has it trained and evaluates it; nothing in the folder can run."""
    make_here(monkeypatch)
    run_here("05", check_values({**SMOKE, "run_dir": str(tmp_path)}))
    folder = (tmp_path / "model").rename(tmp_path / "elsewhere")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(FILMS, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores, numbers = model(**inputs).logits.softmax(dim=-1).max(dim=-1)
    answers = pipeline("text-classification", model=str(folder))(FILMS)
    names = ["negative", "positive"]
    assert [answer["label"] for answer in answers] == [names[number] for number in numbers]
    assert [answer["score"] for answer in answers] == pytest.approx(scores.tolist(), abs=1e-5)
    suffixes = {path.suffix for path in folder.iterdir()}
    assert suffixes <= {".json", ".safetensors", ".md", ".txt"}
    measured = json.loads((tmp_path / "metrics.json").read_text())["05_evaluation"]
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["accuracy"] == measured["accuracy"]
    stamp = json.loads((folder / "made_by.json").read_text())
    assert stamp["versions"]["torch"] == torch.__version__
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    (accuracy,) = [one for one in card.data.eval_results if one.metric_type == "accuracy"]
    assert accuracy.metric_value == round(measured["accuracy"], 4)
    assert f"| num_train | {stamp['parameters']['num_train']} |" in card.text
    assert_texts_of_any_length_are_classified(folder, card.text)


def assert_texts_of_any_length_are_classified(folder, card):
    """By the lines that card, README and chapter 05 give to copy, in a fresh process."""
    cell = cells_of(chapter("05"))["read-padding"].source
    asked = "print(json.dumps(classify(['word ' * 2000, '', 'fine'], truncation=True)))\n"
    code = "import json\n"
    for text in (card, (ROOT / "README.md").read_text(), cell):
        (lines,) = re.findall(r"(?s)```python\n(from transformers import pipeline\n.*?)```", text)
        code += re.sub(r'model="[^"]+"', f'model="{folder}"', lines) + asked
    said = run_python("-c", code).stdout.splitlines()
    answers = [json.loads(line) for line in said if line.startswith('[{"')]
    one, two, three = (answer for answer in answers if len(answer) == 3)
    assert one == two == three
