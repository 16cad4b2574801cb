"""Batches in parts, early stopping on three roads, and the results that chapter 6 draws."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lessons import chapter, make_here, prose, rows_of, run_here, train
from transformers import Trainer

from benchmarks import budget
from benchmarks.roads import ACCURACIES
from helpers.speed import switch_dropout_off
from helpers.training import parts_of, stops_early
from suite.checkpoints import Checkpoints
from suite.runs import EXPECTED
from suite.settings import Settings
from suite.start import check_values

# With validation losses that fall no more after the second epoch, a patience of 2 ends the fourth.
ROADS_AND_WEIGHTS = list(itertools.product(["04", "08"], ["none", "balanced"]))
LOSSES = [0.6, 0.5, 0.55, 0.5, 0.4, 0.3]


def test_parts_hold_all_texts_in_their_order_and_count_by_their_shares():
    batch = {"input_ids": torch.arange(30).reshape(15, 2), "labels": torch.arange(15)}
    parts, shares = zip(*parts_of(batch, 4), strict=True)
    assert [len(part["labels"]) for part in parts] == [4, 4, 4, 3]
    assert sum(shares) == pytest.approx(1)
    for name, values in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values)


@pytest.mark.parametrize("patience, epochs", [(0, 6), (1, 3), (2, 4), (3, 6), (9, 6)])
def test_training_stops_after_epochs_without_a_better_one(patience, epochs):
    stops = (n for n in range(len(LOSSES)) if stops_early(LOSSES[:n], patience))
    assert next(stops, len(LOSSES)) == epochs


@pytest.mark.slow
@pytest.mark.parametrize("road, class_weights", ROADS_AND_WEIGHTS)
def test_parts_of_a_batch_train_the_same_weights(smoke, road, class_weights):
    """Without dropout, and with a last batch that is smaller and cannot be cut into equal parts."""
    weights = []
    for accumulation_steps in (1, 4):
        changed = {"num_train": 29, "accumulation_steps": accumulation_steps}
        settings = replace(smoke, **changed, class_weights=class_weights)
        rows_of(settings)
        until = {"04": "define-train-one-epoch", "08": "make-trainer"}[road]
        names = run_here(road, settings, until=until)
        switch_dropout_off(names["model"])
        if road == "08":
            names["trainer"].train()
        else:
            parts = [names[name] for name in ("train_dataloader", "optimizer", "lr_scheduler")]
            class_weights_ = torch.tensor([0.5, 1.5]) if class_weights == "balanced" else None
            bar = type("Bar", (), {"update": lambda *_: None})()
            arguments = (settings, torch.device("cpu"), bar, [], class_weights_)
            names["train_one_epoch"](names["model"], *parts, *arguments)
        weights.append(torch.cat([p.flatten() for p in names["model"].parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 2e-6


@pytest.mark.slow
def test_the_loop_and_the_trainer_stop_early_and_a_training_that_goes_on_remembers(
    smoke, monkeypatch
):
    """It is broken off in the epoch whose loss would be the last to wait for."""
    settings = replace(smoke, num_epochs=len(LOSSES), early_stopping=2)
    losses = iter([*LOSSES[:3], KeyboardInterrupt, *LOSSES[3:]] * 2)
    seen = []

    def next_loss():
        loss = next(losses)
        if loss is KeyboardInterrupt:
            raise loss
        seen.append(loss)
        return loss

    end_epoch, evaluate = Checkpoints.end_epoch, Trainer.evaluation_loop

    def with_loss(self, *arguments, **options):
        output = evaluate(self, *arguments, **options)
        output.metrics["eval_loss"] = next_loss()
        return output

    monkeypatch.setattr(
        Checkpoints, "end_epoch", lambda self, _, accuracy: end_epoch(self, next_loss(), accuracy)
    )
    with pytest.raises(KeyboardInterrupt):
        train("model", settings)
    train("model", settings)
    assert seen == LOSSES[:4]

    rows_of(settings)
    losses, seen = iter([0.7, *LOSSES[:3], KeyboardInterrupt, 0.7, *LOSSES[3:]]), []
    monkeypatch.setattr(Trainer, "evaluation_loop", with_loss)
    with pytest.raises(KeyboardInterrupt):
        train("trainer", settings)
    train("trainer", settings)
    assert seen == [0.7, *LOSSES[:3], 0.7, LOSSES[3]]


@pytest.mark.slow
def test_the_budget_of_own_data_is_measured_once_and_found_by_the_chapter(smoke, monkeypatch):
    make_here(monkeypatch)
    calls = []

    def run_function(name, *arguments, environment):
        calls.append(arguments)
        function = getattr(budget, name.partition(":")[2])
        return json.loads(json.dumps(function(*json.loads(json.dumps(arguments)))))

    monkeypatch.setattr(budget, "run_child", run_function)
    monkeypatch.setattr(budget, "DRAWS", {8: 2, 1000: 1})
    monkeypatch.setattr(budget, "LEAST_STEPS", 1)
    settings = replace(smoke, num_train=24)
    file = budget.run_folder(settings) / "budget.json"
    for _ in range(2):
        budget.measure(settings, file, jobs=1)
    # Two draws of 8 rows, one of all, for four methods; the mean of tokens; the curves.
    assert len(calls) == 4 * 3 + 1 + len(budget.CURVES) + 3 * len(budget.RATES)
    results = budget.measured(replace(settings, learning_rate=1e-3))
    assert set(results["points"]["LoRA"]) == {"8", "24"}
    for draws in results["points"]["full"].values():
        assert all(0 <= figures["accuracy"] <= 1 for figures in draws.values())
    assert budget.measured(replace(settings, max_length=16)) == {}


@pytest.mark.slow
def test_chapter_6_runs_on_own_data_without_a_budget(tiny_model, twenty_classes, tmp_path, capsys):
    """Twenty classes, some missing among the 32 training rows; the names come from the file."""
    names, parameters = twenty_classes
    run_dir = str(tmp_path / "run")
    settings = check_values({**parameters, "model_name": tiny_model, "run_dir": run_dir})
    rows_of(settings)
    made = run_here("06", settings)
    said = capsys.readouterr().out
    assert "make budget has not run on these data" in said
    assert made["merged"].config.id2label[0] == names[0]
    assert set(made["live"].index) == {("TF-IDF", 32), ("frozen", 32)}
    trials = sorted(path.name for path in (tmp_path / "run" / "choose").glob("rate-*"))
    assert len(trials) == 9 and trials[0] == "rate-1e-03-seed-42"
    assert made["best"] in made["rates"]


def test_the_kept_results_are_those_of_the_default_data():
    results = budget.measured(Settings(run_dir="runs/nothing-there"))
    assert results["test_rows"] == budget.DEFAULT.num_test
    wanted = {(method, str(rows)) for method, rows, _ in budget.points(budget.DEFAULT)}
    found = {(method, n) for method, sizes in results["points"].items() for n in sizes}
    assert found == wanted
    assert len(results["curves"]) == len(budget.CURVES) + 3 * len(budget.RATES)


def test_what_chapter_6_says_of_the_kept_results():
    """Sentences of the cells `read-methods`, `read-readings` and `read-curves`."""
    results = budget.measured(Settings(run_dir="runs/nothing-there"))

    def figures(method, n, name="accuracy"):
        draws = results["points"][method][str(n)]
        return np.array([draws[draw][name] for draw in sorted(draws)])

    def gap(one, other, n):
        """The difference of two methods, and its standard error as chapter 6 works it out."""
        values = [figures(one, n), figures(other, n)]
        counting = sum(v.mean() * (1 - v.mean()) for v in values) / results["test_rows"]
        spread = sum(v.var(ddof=1) / len(v) for v in values if len(v) > 1)
        return values[0].mean() - values[1].mean(), (counting + spread) ** 0.5

    for n in (50, 100, 300, 1000, 3000, 6162):
        difference, error = gap("full", "TF-IDF", n)
        assert difference > 2 * error
        if n >= 300:
            assert all(figures("full", n) > figures("frozen", n))
        if n <= 1000:
            assert all(figures("full", n) > figures("LoRA", n))
    for n in (50, 100):
        assert 0 <= gap("full", "frozen", n)[0] < 0.02
        assert 0.5 < figures("frozen", n, "seconds").mean() < 1.5
    assert round(gap("full", "LoRA", 1000)[0], 2) == 0.01
    assert round(gap("full", "LoRA", 50)[0], 2) == 0.04
    seconds, memory = [
        figures("LoRA", 1000, name).mean() / figures("full", 1000, name).mean()
        for name in ("seconds", "peak_memory_mib")
    ]
    assert round(seconds, 1) == 0.8 and round(memory, 2) == 0.97
    for method in ("full", "LoRA"):
        gain = figures(method, 6162).mean() - figures(method, 1000).mean()
        assert round(gain, 2) == 0.05
    mean = figures("full", 1000).mean()
    assert round(gap("full, mean of tokens", "full", 1000)[0], 2) == 0.01
    assert round((mean * (1 - mean) / results["test_rows"]) ** 0.5, 2) == 0.01
    difference, error = gap("full, mean of tokens", "full", 1000)
    assert abs(difference) < 2 * error
    of_the_loop = json.loads(ACCURACIES.read_text(encoding="utf-8"))["means"]["PyTorch"]
    assert f"has {mean:.3f} here and the loop {of_the_loop:.3f} in" in prose(chapter("06"))
    frozen = [json.loads(EXPECTED.read_text())["figures"][f"frozen_{name}"]["values"]
              for name in ("mean_of_tokens", "first_token")]  # fmt: skip
    assert all(mean > first for mean, first in zip(*frozen, strict=True))

    curves = {name: np.array(curve["losses"]) for name, curve in results["curves"].items()}
    guessing = math.log(2)
    assert curves["healthy"][-1, 0] < 0.2 and curves["healthy"][:, 1].min() < 0.6
    assert abs(curves["underfit"] - guessing).max() < 0.01
    assert curves["overfit"][-1, 0] < 0.05 and curves["overfit"][-1, 1] > 1
    assert curves["diverged"].min() > guessing
