"""The folder of a trained model is all that somebody needs, and says what it is."""

import json
import re

import nbformat
import pytest
import torch
from huggingface_hub import ModelCard
from lessons import make_here, run_here, run_python
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from conftest import SMOKE
from suite.chapters import ROOT, all_chapters
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
    assert_texts_of_any_length_are_classified(folder, card.text)


def assert_texts_of_any_length_are_classified(folder, card):
    """By the lines that card, README and chapter 05 give to copy, in a fresh process."""
    chapter = nbformat.read(all_chapters()[4], as_version=4)
    (cell,) = (cell.source for cell in chapter.cells if cell.id == "read-padding")
    asked = "print(json.dumps(classify(['word ' * 2000, '', 'fine'], truncation=True)))\n"
    code = "import json\n"
    for text in (card, (ROOT / "README.md").read_text(), cell):
        (lines,) = re.findall(r"(?s)```python\n(from transformers import pipeline\n.*?)```", text)
        code += re.sub(r'model="[^"]+"', f'model="{folder}"', lines) + asked
    said = run_python("-c", code).stdout.splitlines()
    answers = [json.loads(line) for line in said if line.startswith('[{"')]
    one, two, three = (answer for answer in answers if len(answer) == 3)
    assert one == two == three
