"""The folder of a trained model is all that somebody needs, and says what it is."""

import json
import subprocess
import sys
from dataclasses import replace

import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import SMOKE
from suite.chapters import all_chapters
from suite.model_card import write_model_card
from suite.runner import run_chapters
from suite.runs import made_by, write_json

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


def test_the_folder_of_a_model_is_all_that_it_needs_elsewhere(tmp_path):
    """Chapter 05 has it trained and evaluates it; nothing in the folder can run."""
    run_chapters([all_chapters()[4]], {**SMOKE, "run_dir": str(tmp_path)}, progress=False)
    folder = tmp_path / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    command = [sys.executable, "-c", ELSEWHERE, folder, *TEXTS, tmp_path / "logits"]
    elsewhere = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert torch.equal(load_file(tmp_path / "logits")["logits"], logits)
    answers = [["negative", "positive"][number] for number in logits.argmax(dim=-1)]
    assert elsewhere.stdout.splitlines()[-1] == str(answers)
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


def test_names_from_the_data_are_text_in_the_card_and_paths_stay_private(smoke, tmp_path):
    own = replace(smoke, dataset_name=str(tmp_path / "private" / "reviews.csv"))
    write_json(tmp_path / "made_by.json", {**made_by(own, "model"), "sizes": {}})
    classes = [("<script>alert(1)</script>", 1.0, 1.0, 1.0, 3), ("a|b\n# c", 1.0, 1.0, 1.0, 3)]
    write_model_card(tmp_path, own, {"accuracy": 1.0}, classes)
    text = ModelCard.load(tmp_path / "README.md").text
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "| a\\|b \\# c |" in text
    assert "private" not in (tmp_path / "README.md").read_text()
    assert "reviews.csv" in text
