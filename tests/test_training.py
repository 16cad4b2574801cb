"""Optimizer, schedule, loop and the model on disk."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import rows_of, train
from safetensors.torch import load_file
from torch.optim import AdamW
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_scheduler

from helpers.batches import make_dataloader, to_model_inputs
from helpers.training import evaluate_model, load_model, parameter_groups, pick_device
from suite.checkpoints import Checkpoints
from suite.errors import UserError
from suite.products import product


@pytest.fixture
def model(smoke):
    class_label = rows_of(smoke)["train"].features["label"]
    return load_model(smoke.model_name, class_label, smoke.attention_dropout, smoke.seed)


def test_the_new_head_depends_on_the_seed_alone(smoke, model):
    class_label = rows_of(smoke)["train"].features["label"]
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


def test_evaluate_model_weighs_every_text_alike(smoke, model, tokenizer):
    """16 rows in batches of 10 and 6: the mean over batches would be wrong. The untrained model guesses."""
    rows = to_model_inputs(rows_of(smoke))["validation"]
    device = torch.device("cpu")
    loss, accuracy = evaluate_model(model, make_dataloader(rows, tokenizer, 10), device)
    batch = next(iter(make_dataloader(rows, tokenizer, 32)))
    with torch.no_grad():
        outputs = model(**batch)
    assert loss == pytest.approx(outputs.loss.item(), abs=1e-5)
    assert loss == pytest.approx(math.log(2), abs=0.05)
    assert accuracy == (outputs.logits.argmax(-1) == batch["labels"]).float().mean().item()
    assert 0.2 < accuracy < 0.8


def test_training_twice_gives_the_same_weights_bit_for_bit(smoke, tmp_path):
    folders = [
        train("model", replace(smoke, run_dir=str(tmp_path / name))) for name in ("one", "two")
    ]
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_trained_model_is_kept_and_made_again_for_other_settings(smoke, capfd):
    """The chapter that makes it runs in a process of its own, and shows the bars of its own cells."""
    with product("model", smoke) as folder:
        first = (folder / "model.safetensors").read_bytes()
    said = capfd.readouterr()
    assert (
        f"No model of these parameters in {smoke.run_dir}: running 04_training_loop.\n" in said.out
    )
    assert "12/12" in said.err
    kept = replace(smoke, num_eval=smoke.num_eval // 2)
    with product("model", kept) as folder:
        assert (folder / "model.safetensors").read_bytes() == first
    assert capfd.readouterr().out == ""
    with product("model", replace(smoke, num_epochs=1)) as folder:
        assert (folder / "model.safetensors").read_bytes() != first
        made = json.loads((folder / "made_by.json").read_text())
        assert made["parameters"]["num_epochs"] == 1
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
        assert loaded.config.id2label == {0: "negative", 1: "positive"}
        assert AutoTokenizer.from_pretrained(folder)("a film")["input_ids"][0] == 101


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


def test_a_loss_that_is_no_number_leaves_no_model(smoke, monkeypatch):
    end_epoch = Checkpoints.end_epoch
    monkeypatch.setattr(
        Checkpoints, "end_epoch", lambda self, loss, accuracy: end_epoch(self, math.nan, accuracy)
    )
    with pytest.raises(UserError, match="not a number: try a smaller learning_rate"):
        train("model", smoke)
    assert not (Path(smoke.run_dir) / "model").exists()


def test_an_interrupted_training_leaves_the_old_model(smoke, monkeypatch):
    folder = train("model", smoke)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(
        Checkpoints, "end_epoch", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
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
