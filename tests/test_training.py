"""Optimizer, schedule, loop and the model on disk."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_scheduler

from helpers import training
from helpers.batches import make_dataloader, to_model_inputs
from helpers.data import prepare_data
from helpers.errors import UserError
from helpers.training import (
    evaluate_model,
    load_model,
    parameter_groups,
    pick_device,
    trained_model,
)


def folder_of(settings):
    with trained_model(settings) as folder:
        return folder


@pytest.fixture
def model(smoke):
    class_label = prepare_data(smoke)["train"].features["label"]
    return load_model(smoke.model_name, class_label, smoke.attention_dropout, smoke.seed)


def test_the_new_head_depends_on_the_seed_alone(smoke, model):
    class_label = prepare_data(smoke)["train"].features["label"]
    torch.rand(7)
    again = load_model(smoke.model_name, class_label, 0.0, smoke.seed)
    other = load_model(smoke.model_name, class_label, 0.0, smoke.seed + 1)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert model.dtype == torch.float32
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}


def test_biases_and_norms_do_not_decay(model):
    decaying, free = parameter_groups(model, 0.01)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in free["params"]:
        assert names[id(parameter)].endswith("bias") or "LayerNorm" in names[id(parameter)]
    for parameter in decaying["params"]:
        assert names[id(parameter)].endswith("weight") and "LayerNorm" not in names[id(parameter)]
    assert len(decaying["params"]) + len(free["params"]) == len(names)


def test_the_schedule_is_the_one_that_the_formula_gives():
    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    lr_scheduler = get_scheduler("linear", optimizer, num_warmup_steps=4, num_training_steps=12)
    rates = []
    for _ in range(13):
        rates.append(lr_scheduler.get_last_lr()[0])
        optimizer.step()
        lr_scheduler.step()
    assert rates == pytest.approx([0, 0.5, 1, 1.5, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25, 0])


def test_the_untrained_model_guesses(smoke, model, tokenizer):
    rows = to_model_inputs(prepare_data(smoke))
    loss, accuracy = evaluate_model(
        model, make_dataloader(rows["validation"], tokenizer, 8), torch.device("cpu")
    )
    assert loss == pytest.approx(math.log(2), abs=0.05)
    assert 0.2 < accuracy < 0.8


def test_evaluate_model_weighs_every_text_alike(smoke, model, tokenizer):
    """16 rows in batches of 10 and 6: the mean over batches would be wrong."""
    rows = to_model_inputs(prepare_data(smoke))["validation"]
    loss, accuracy = evaluate_model(
        model, make_dataloader(rows, tokenizer, 10), torch.device("cpu")
    )
    batch = next(iter(make_dataloader(rows, tokenizer, 32)))
    with torch.no_grad():
        outputs = model(**batch)
    assert loss == pytest.approx(outputs.loss.item(), abs=1e-5)
    assert accuracy == (outputs.logits.argmax(-1) == batch["labels"]).float().mean().item()


def test_training_twice_gives_the_same_weights_bit_for_bit(smoke, tmp_path):
    folders = [folder_of(replace(smoke, run_dir=str(tmp_path / name))) for name in ("one", "two")]
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_trained_model_is_kept_and_made_again_for_other_settings(smoke, monkeypatch):
    calls = []
    original = training.train_one_epoch
    monkeypatch.setattr(
        training, "train_one_epoch", lambda *args: calls.append(1) or original(*args)
    )
    folder = folder_of(smoke)
    assert len(calls) == 1
    assert folder_of(smoke) == folder
    assert len(calls) == 1
    folder_of(replace(smoke, num_eval=smoke.num_eval // 2))
    assert len(calls) == 1
    folder_of(replace(smoke, learning_rate=2e-4))
    assert len(calls) == 2
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.config.id2label == {0: "negative", 1: "positive"}
    assert AutoTokenizer.from_pretrained(folder)("a film")["input_ids"][0] == 101


def test_the_best_epoch_is_kept_and_not_the_last(smoke, monkeypatch):
    losses = iter([0.5, 0.3, 0.4])
    weights = []

    def fake_evaluation(model, dataloader, device):
        weights.append(model.classifier.weight.detach().clone())
        return next(losses), 0.5

    monkeypatch.setattr(training, "evaluate_model", fake_evaluation)
    folder = folder_of(replace(smoke, num_epochs=3))
    saved = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(saved, weights[1])
    assert not torch.equal(saved, weights[2])


def test_a_loss_that_is_no_number_leaves_no_model(smoke, monkeypatch):
    monkeypatch.setattr(training, "evaluate_model", lambda *args: (float("nan"), 0.5))
    with pytest.raises(UserError, match="not a number: try a smaller learning_rate"):
        folder_of(smoke)
    assert not (Path(smoke.run_dir) / "model").exists()


def test_an_interrupted_training_leaves_the_old_model(smoke, monkeypatch):
    folder = folder_of(smoke)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(
        training, "evaluate_model", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        folder_of(replace(smoke, learning_rate=2e-4))
    assert (folder / "model.safetensors").read_bytes() == before
    left = sorted(path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock"))
    assert left == ["checkpoints", "data", "model"]


def test_a_device_that_is_not_there_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device 'cuda' is not there; torch finds cpu"):
            pick_device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
