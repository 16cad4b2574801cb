"""Optimizer, schedule, loop and the model on disk."""

import json
import math
from dataclasses import replace

import pytest
import torch
from lessons import rows_of, train
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers.batches import make_dataloader, to_model_inputs
from helpers.evaluation import evaluate_model
from helpers.training import load_model, pick_device
from suite.checkpoints import Checkpoints
from suite.errors import UserError
from suite.products import product

pytestmark = pytest.mark.slow


@pytest.fixture
def class_label(smoke):
    return rows_of(smoke)["train"].features["label"]


@pytest.fixture
def model(smoke, class_label):
    return load_model(smoke.model_name, class_label, smoke.attention_dropout, smoke.seed)


def test_the_new_head_depends_on_the_seed_alone(smoke, model, class_label):
    torch.rand(7)
    again = load_model(smoke.model_name, class_label, 0.0, smoke.seed)
    other = load_model(smoke.model_name, class_label, 0.0, smoke.seed + 1)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert model.dtype == torch.float32
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}


def test_evaluate_model_weighs_every_text_alike(smoke, model, tokenizer):
    """16 rows in batches of 10 and 6: the mean over batches would be wrong. The untrained model guesses."""
    rows = to_model_inputs(rows_of(smoke))["validation"]
    dataloader = make_dataloader(rows, tokenizer, 10)
    loss, accuracy = evaluate_model(model, dataloader, torch.device("cpu"))
    batch = next(iter(make_dataloader(rows, tokenizer, 32)))
    with torch.no_grad():
        outputs = model(**batch)
    assert loss == pytest.approx(outputs.loss.item(), abs=1e-5)
    assert loss == pytest.approx(math.log(2), abs=0.05)
    assert accuracy == (outputs.logits.argmax(-1) == batch["labels"]).float().mean().item()
    assert 0.2 < accuracy < 0.8


def test_the_trained_model_is_kept_and_made_again_for_other_settings(smoke, capfd):
    """The chapter that makes it runs in a process of its own, and shows the bars of its own cells."""
    first = (train("model", smoke) / "model.safetensors").read_bytes()
    capfd.readouterr()
    with product("model", replace(smoke, num_test=smoke.num_test // 2)) as folder:
        assert (folder / "model.safetensors").read_bytes() == first
    assert capfd.readouterr() == ("", "")
    with product("model", replace(smoke, num_epochs=2)) as folder:
        assert (folder / "model.safetensors").read_bytes() != first
        assert json.loads((folder / "made_by.json").read_text())["parameters"]["num_epochs"] == 2
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
        assert loaded.config.id2label == {0: "negative", 1: "positive"}
        assert AutoTokenizer.from_pretrained(folder)("a film")["input_ids"][0] == 101
    said = capfd.readouterr()
    running = f"No model of these parameters in {smoke.run_dir}: running 04_training_loop.\n"
    assert running in said.out
    assert "100%|" in said.err and "| 8/8 [" in said.err


def test_the_best_epoch_is_kept_and_not_the_last(smoke, monkeypatch):
    losses = iter([0.5, 0.3, 0.4])
    weights = []
    end_epoch = Checkpoints.end_epoch

    def with_loss(checkpoints, validation_loss, accuracy):
        weights.append(checkpoints.model.classifier.weight.detach().clone())
        end_epoch(checkpoints, next(losses), accuracy)

    monkeypatch.setattr(Checkpoints, "end_epoch", with_loss)
    folder = train("model", replace(smoke, num_epochs=3))
    saved = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(saved, weights[1])
    assert not torch.equal(saved, weights[2])


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_a_training_that_breaks_off_leaves_the_old_model(smoke, monkeypatch, error):
    """With a validation loss that is no number, or interrupted."""
    folder = train("model", smoke)
    before = (folder / "model.safetensors").read_bytes()
    end_epoch = Checkpoints.end_epoch

    def break_off(checkpoints, validation_loss, accuracy):
        if error is KeyboardInterrupt:
            raise error("not a number: try a smaller learning_rate")
        end_epoch(checkpoints, math.nan, accuracy)

    monkeypatch.setattr(Checkpoints, "end_epoch", break_off)
    with pytest.raises(error, match="not a number: try a smaller learning_rate"):
        train("model", replace(smoke, learning_rate=2e-4))
    assert (folder / "model.safetensors").read_bytes() == before
    left = sorted(path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock"))
    assert left == ["checkpoints", "data", "model"]


def test_a_device_that_is_not_there_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device 'cuda' is not there; set device to 'auto'"):
            pick_device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
