"""The folder of a trained model is all that somebody needs, and says what it is."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import SMOKE
from suite.chapters import all_chapters
from suite.model_card import write_model_card
from suite.runner import run_chapters
from suite.runs import MODEL_PARAMETERS, made_by, write_json

TEXTS = ["A wonderful film.", "Dull, badly acted and far too long."]
ELSEWHERE = """
import sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder, texts, out = sys.argv[1], sys.argv[2:4], sys.argv[4]
model = AutoModelForSequenceClassification.from_pretrained(folder)
inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    save_file({"logits": model(**inputs).logits}, out)
print([answer["label"] for answer in pipeline("text-classification", model=folder)(texts)])
"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The run folder of chapter 05, which has trained the model of chapter 04 and evaluated it."""
    folder = tmp_path_factory.mktemp("evaluated")
    (chapter,) = [path for path in all_chapters() if path.stem == "05_evaluation"]
    run_chapters([chapter], {**SMOKE, "run_dir": str(folder)}, progress=False)
    return folder


def test_the_folder_gives_the_same_logits_and_the_names_of_the_classes_elsewhere(
    evaluated, tmp_path
):
    model = AutoModelForSequenceClassification.from_pretrained(evaluated / "model")
    inputs = AutoTokenizer.from_pretrained(evaluated / "model")(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    command = [sys.executable, "-c", ELSEWHERE, evaluated / "model", *TEXTS, tmp_path / "logits"]
    elsewhere = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert torch.equal(load_file(tmp_path / "logits")["logits"], logits)
    names = ["negative", "positive"]
    answers = [names[number] for number in logits.argmax(dim=-1)]
    assert elsewhere.stdout.splitlines()[-1] == str(answers)


def test_the_folder_holds_figures_settings_and_versions_and_nothing_that_can_run(evaluated):
    suffixes = {path.suffix for path in (evaluated / "model").iterdir()}
    assert suffixes <= {".json", ".safetensors", ".md", ".txt"}
    measured = json.loads((evaluated / "metrics.json").read_text())["05_evaluation"]
    figures = json.loads((evaluated / "model" / "metrics.json").read_text())
    assert figures["accuracy"] == measured["accuracy"]
    made_by = json.loads((evaluated / "model" / "made_by.json").read_text())
    assert made_by["versions"]["torch"] == torch.__version__
    card = ModelCard.load(evaluated / "model" / "README.md")
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    (accuracy,) = [one for one in card.data.eval_results if one.metric_type == "accuracy"]
    assert accuracy.metric_value == round(measured["accuracy"], 4)
    assert f"| num_train | {made_by['parameters']['num_train']} |" in card.text


def test_names_from_the_data_are_text_in_the_card_and_paths_stay_private(smoke, tmp_path):
    own = replace(smoke, dataset_name=str(tmp_path / "private" / "reviews.csv"))
    write_json(tmp_path / "made_by.json", {**made_by(own, MODEL_PARAMETERS), "sizes": {}})
    classes = [("<script>alert(1)</script>", 1.0, 1.0, 1.0, 3), ("a|b\n# c", 1.0, 1.0, 1.0, 3)]
    write_model_card(tmp_path, own, {"accuracy": 1.0}, classes)
    text = ModelCard.load(tmp_path / "README.md").text
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "| a\\|b \\# c |" in text
    assert "private" not in (tmp_path / "README.md").read_text()
    assert "reviews.csv" in text
