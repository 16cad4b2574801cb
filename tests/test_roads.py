"""Three roads, one result: parity step by step, and the parts of the Trainer and Keras roads."""

import json
import re
from dataclasses import replace
from unittest.mock import Mock

import nbformat
import numpy as np
import pytest
import torch
from lessons import rows_of
from transformers import get_scheduler

from benchmarks import roads
from benchmarks.bench import PAGE
from conftest import SMOKE
from helpers.batches import make_dataloader, to_model_inputs
from helpers.training import load_model, parameter_groups
from suite import start_tensorflow
from suite.chapters import ROOT, all_chapters
from suite.errors import SourceError
from suite.resolve import check_convertible
from suite.settings import Settings
from suite.start import check_values
from suite.start_tensorflow import KerasMissing

NUM_STEPS = 20


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The default model in small batches of short texts; chapters 08 and 09 take the default sizes."""
    sizes = {"num_train": 8 * NUM_STEPS, "batch_size": 8, "max_length": 32, "device": "cpu"}
    return replace(Settings(), **sizes, run_dir=str(tmp_path_factory.mktemp("roads")))


@pytest.fixture(scope="module")
def measured(settings):
    return roads.measure_roads(settings, roads.ROADS, NUM_STEPS)


@pytest.mark.parametrize(
    ("road", "figure", "bound"),
    [("Trainer", "losses", 1e-6), ("Keras", "losses", 1e-3), ("Keras", "logits", 1e-4)],
)
def test_a_road_computes_what_the_loop_does(measured, road, figure, bound, record_property):
    """Losses of all steps, and before them the logits of the first batch."""
    pair = {name: measured[name] for name in ("PyTorch", road)}
    assert all(len(figures["losses"]) == NUM_STEPS for figures in pair.values())
    difference = roads.largest_difference(pair, figure)
    record_property(f"loop and {road}, largest difference of {figure}", difference)
    assert difference <= bound


@pytest.mark.long
def test_loop_and_trainer_end_at_the_same_weights(settings, tmp_path, record_property):
    roads.save_start(settings, tmp_path)
    weights = []
    for train in (roads.train_pytorch, roads.train_trainer):
        rows, tokenizer = roads.first_rows(settings, NUM_STEPS)
        model = roads.load_start(tmp_path)
        start = model.state_dict()["classifier.weight"].clone()
        train(model, rows, tokenizer, settings)
        assert not torch.equal(start, model.state_dict()["classifier.weight"])
        weights.append(model.state_dict())
    one, two = weights
    difference = max((one[name] - two[name]).abs().max().item() for name in one)
    record_property("loop and Trainer, largest difference of the final weights", difference)
    assert difference <= 1e-5


def test_speed_and_memory_are_those_of_each_process(measured):
    for figures in measured.values():
        assert figures["samples_per_second"] > 0
        assert 100 < figures["peak_memory_mib"] < 4096
    assert measured["Keras"]["peak_memory_mib"] > measured["PyTorch"]["peak_memory_mib"]


def test_another_learning_rate_is_seen_as_a_difference(settings, measured, tmp_path):
    """What the bounds above are worth: a tenth more of learning rate breaks them."""
    roads.save_start(settings, tmp_path)
    rows, tokenizer = roads.first_rows(settings, NUM_STEPS)
    faster = replace(settings, learning_rate=1.1 * settings.learning_rate)
    losses, _ = roads.train_pytorch(roads.load_start(tmp_path), rows, tokenizer, faster)
    pair = {"as it is": measured["PyTorch"], "faster": {"losses": losses}}
    assert roads.largest_difference(pair) > 1e-3


def test_what_was_measured_is_taken_from_the_run_folder_if_the_settings_are_the_same(
    settings, measured, monkeypatch
):
    measure = Mock(side_effect=lambda _, names, steps: dict.fromkeys(names, "new"))
    monkeypatch.setattr(roads, "measure_roads", measure)
    kept = {road: measured[road] for road in ("PyTorch", "Trainer")}
    assert roads.get_roads(settings, ["PyTorch", "Trainer"], NUM_STEPS) == kept
    assert not measure.called
    assert roads.get_roads(settings, roads.ROADS, NUM_STEPS) == {**kept, "Keras": "new"}
    roads.get_roads(replace(settings, learning_rate=1e-3), ["Trainer"], NUM_STEPS)
    roads.get_roads(settings, ["Trainer"], NUM_STEPS + 1)
    asked = [(call.args[1], call.args[2] - NUM_STEPS) for call in measure.mock_calls]
    assert asked == [(["Keras"], 0), (["Trainer"], 0), (["Trainer"], 1)]


def test_the_mean_accuracies_lie_within_one_and_a_half_points_and_stand_on_the_page():
    """With the chapters' own settings, as `make accuracies` measured them."""
    measured = json.loads(roads.ACCURACIES.read_text(encoding="utf-8"))
    assert len(set(measured["seeds"])) >= 5
    assert all(len(measured[road]) == len(measured["seeds"]) for road in roads.ROADS)
    means = {road: float(np.mean(measured[road])) for road in roads.ROADS}
    assert measured["means"] == pytest.approx(means, abs=1e-4)
    assert max(means.values()) - min(means.values()) <= 0.015, means
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines()]
    names = ("native PyTorch", "🤗 Trainer", "Keras on TensorFlow")
    for road, name in zip(roads.ROADS, names, strict=True):
        assert [row[3] for row in rows if row[0] == name] == [f"{measured['means'][road]:.3f}"]
    values = measured["PyTorch"]
    stored = str(nbformat.read(all_chapters()[4], as_version=4).cells)
    accuracy = re.search(r"accuracy ≈ (0\.\d+)", stored)[1]
    for page in ("README.md", "docs/why_different.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert f"{np.mean(values):.3f}" in text and f"{np.std(values, ddof=1):.3f}" in text
        assert accuracy in text


def test_the_accuracy_of_each_road_is_that_of_its_chapter(smoke_run):
    """Without a second training: each chapter left its model."""
    folder, _ = smoke_run
    settings = check_values({**SMOKE, "run_dir": str(folder)})
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = metrics["09_keras"] | metrics["08_trainer"] | metrics["05_evaluation"]
    names = {"PyTorch": "accuracy", "Trainer": "trainer_accuracy", "Keras": "keras_accuracy"}
    for road, name in names.items():
        assert roads.accuracy_of(road, settings) == pytest.approx(figures[name], abs=0.04)


@pytest.mark.parametrize("num_warmup_steps", [0, 1, 4])
def test_the_schedule_of_keras_is_that_of_transformers(num_warmup_steps):
    from helpers.keras_road import LinearWarmup

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    lr_scheduler = get_scheduler("linear", optimizer, num_warmup_steps, 12)
    schedule = LinearWarmup(2.0, num_warmup_steps, 12)
    for step in range(13):
        assert float(schedule(step)) == pytest.approx(lr_scheduler.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        lr_scheduler.step()
    assert LinearWarmup.from_config(schedule.get_config()).get_config() == schedule.get_config()


def test_the_optimizer_of_keras_decays_the_same_weights(smoke):
    from helpers.keras_road import build_classifier, make_keras_optimizer

    class_label = rows_of(smoke)["train"].features["label"]
    model = load_model(smoke.model_name, class_label, 0.0, smoke.seed)
    decaying, _ = parameter_groups(model, smoke.weight_decay)
    classifier = build_classifier(smoke.model_name, class_label.num_classes, smoke.seed)
    optimizer = make_keras_optimizer(smoke, 10)
    variables = classifier.trainable_variables
    optimizer.build(variables)
    theirs = [np.prod(v.shape) for v in variables if optimizer._use_weight_decay(v)]
    assert sorted(theirs) == sorted(parameter.numel() for parameter in decaying["params"])


def test_keras_sees_the_batches_of_the_loader(smoke, tokenizer):
    from helpers.keras_road import keras_batches

    rows = to_model_inputs(rows_of(smoke))["train"]
    dataloader = make_dataloader(rows, tokenizer, 10)
    dataset = keras_batches(dataloader)
    assert len(dataset) == len(dataloader)
    for (inputs, labels), batch in zip(dataset, dataloader, strict=True):
        assert np.array_equal(inputs["token_ids"], batch["input_ids"])
        assert np.array_equal(inputs["segment_ids"], batch["token_type_ids"])
        assert np.array_equal(inputs["padding_mask"], batch["attention_mask"])
        assert np.array_equal(labels, batch["labels"])


BERT = {"model_type": "bert", "hidden_act": "gelu"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "distilbert"}, "it is of type 'distilbert'"),
        (BERT | {"model_type": "roberta"}, "it is of type 'roberta'"),
        (BERT | {"hidden_act": "relu"}, "its activation is 'relu', not GELU"),
        (BERT | {"layer_norm_eps": 1e-5}, "its layer_norm_eps is 1e-05, not 1e-12"),
        (BERT | {"type_vocab_size": 1}, "its type_vocab_size is 1, not 2"),
        (BERT, "it has no file model.safetensors"),
    ],
)
def test_what_keras_cannot_convert_is_refused_in_one_line(tmp_path, config, reason):
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = rf"converts models of type 'bert'.*: {reason}; chapters 4 and 8 can fine-tune it\Z"
    with pytest.raises(SourceError, match=said):
        check_convertible(str(tmp_path))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(start_tensorflow, "find_spec", {"keras": 1, "tensorflow": 1}.get)
    with pytest.raises(KerasMissing, match=r"needs keras-hub: run `pip install -e '\.\[keras\]'`"):
        start_tensorflow.start_tensorflow()
    with pytest.raises(KerasMissing):
        roads.measure_roads(Settings(), ["PyTorch", "Keras"])
