"""The folder of a trained model is all that somebody needs, and says what it is."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from lessons import make_here, run_here
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from conftest import SMOKE
from suite.start import check_values

pytestmark = pytest.mark.slow


TEXTS = ["A wonderful film.", "Dull, badly acted and far too long."]


def test_the_folder_of_a_model_is_all_that_it_needs_elsewhere(tmp_path, monkeypatch):
    """Chapter 05 has it trained and evaluates it; nothing in the folder can run."""
    make_here(monkeypatch)
    run_here("05", check_values({**SMOKE, "run_dir": str(tmp_path)}))
    folder = (tmp_path / "model").rename(tmp_path / "elsewhere")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores, numbers = model(**inputs).logits.softmax(dim=-1).max(dim=-1)
    answers = pipeline("text-classification", model=str(folder))(TEXTS)
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
