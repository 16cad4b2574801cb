"""The benchmark runs, also without a GPU, and docs/benchmarks.md shows what it measured."""

import json
import os
import re
import subprocess
from statistics import fmean, stdev

import pytest
import torch
from datasets import ClassLabel, Dataset
from lessons import run_python
from transformers import BertConfig, BertForSequenceClassification

from benchmarks import bench, folds
from benchmarks.bench import ALL, DATA, NUM_TRAIN, PAGE, RESULTS, SEEDS, last_line, markdown
from benchmarks.child import run_child
from benchmarks.recipes import Task, seed_recipe, seed_recipe_text_by_text
from conftest import copy_of_project
from helpers.speed import has_fast_bf16, multiply_rate

EPYC = json.loads((RESULTS / "amd-epyc-2-cores.json").read_text())
PROSE = " ".join(PAGE.read_text("utf-8").split())


def pairs(line):
    return {key: float(value) for key, value in (pair.split("=") for pair in line.split())}


def highest_share():
    """Of the float32 peak: 1, or more where bf16 multiplies faster.

    With room for noise: the dry run measures a moment each, and another test runs beside it.
    """
    noise, cpu = 1.5, torch.device("cpu")
    if not has_fast_bf16(cpu):  # its bf16 product could take a minute
        return noise
    kinds = (torch.bfloat16, torch.float32)
    fast, slow = (multiply_rate(2048, 2048, 2048, cpu, kind) for kind in kinds)
    return noise * max(1.0, fast / slow)


@pytest.mark.long
@pytest.mark.parametrize(
    ("gpu", "data", "names"),
    [([], "rt", ["trainer_tuned", "ours"]), (["--gpu"], "rt-base", ["ours"])],
    ids=["cpu", "gpu"],
)
def test_a_dry_run_needs_no_gpu_and_measures_ours_and_its_rival(gpu, data, names, tmp_path):
    options = ["--dry-run", "--repeats", "1", *gpu, "--data", data, "--recipes", *names]
    run = run_python("-m", "benchmarks.bench", *options, cwd=copy_of_project(tmp_path))
    *lines, last = run.stdout.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("1/1 ")] == [*names, "peak"]
    measured = pairs(last)
    assert 0.05 < measured.pop(f"{data}_peak") < highest_share()
    assert (f"{data}_bf16_peak" in measured) == has_fast_bf16(torch.device("cpu"))
    measured.pop(f"{data}_bf16_peak", None)
    assert measured.keys() == {f"{data}_vs_trainer" for name in names if name != "ours"}
    assert all(ratio > 0.5 for ratio in measured.values())


def test_without_a_gpu_the_gpu_benchmark_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = "there is no GPU here: make bench-gpu ARGS=--dry-run tries the command without one"
    with pytest.raises(SystemExit, match=f"^{said}$"):
        bench.main(["--gpu"])


def test_batches_are_chosen_from_short_to_long():
    rows = Dataset.from_dict({"input_ids": [[0] * size for size in range(1, 101)]})
    batches = [list(range(start, start + 5)) for start in range(0, 100, 5)]
    assert bench.choose_batches(batches, rows, None) == batches
    assert bench.choose_batches(batches[::-1], rows, 20) == [batches[i] for i in (2, 7, 12, 17)]


def test_the_tutorials_recipe_text_by_text_learns_the_same(tmp_path, tokenizer):
    """Its accuracy is measured that way, so without dropout the weights have to be equal."""
    no_dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_attention_heads=2, **sizes, **no_dropout)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    texts = ["good " * (1 + row) if row % 3 else "bad film " * row for row in range(20)]
    rows = {**tokenizer(texts, truncation=True, max_length=40), "labels": [0, 1] * 10}
    rows = Dataset.from_dict(rows).with_format("torch")
    class_label, cpu = ClassLabel(names=["bad", "good"]), torch.device("cpu")
    task = Task(str(tmp_path), tokenizer, class_label, 40, cpu, seed=1, max_tokens=64, batch_size=8)
    whole, text_by_text = (
        recipe(task, rows, None, 3, lambda: None).state_dict()
        for recipe in (seed_recipe, seed_recipe_text_by_text)
    )
    start = BertForSequenceClassification.from_pretrained(tmp_path).state_dict()
    for name, weights in whole.items():
        if "key.bias" not in name:  # its gradient is 0 but for rounding, which AdamW blows up
            torch.testing.assert_close(text_by_text[name], weights, rtol=0, atol=1e-6, msg=name)
            assert name.startswith("bert.embeddings") or not torch.equal(weights, start[name])


def test_a_measurement_has_its_own_process_and_variables_and_says_why_it_fails():
    assert run_child("os:getpid") != os.getpid()
    path = run_child("os:getenv", "PATH")
    assert run_child("os:getenv", "PATH", environment={"PATH": f"{path}:/more"}) == f"{path}:/more"
    with pytest.raises(RuntimeError, match=r"math:sqrt \(-1,\) ended with 1:(?s:.*)ValueError"):
        run_child("math:sqrt", -1)
    with pytest.raises(subprocess.TimeoutExpired):
        run_child("time:sleep", 60, timeout=0.5)


def test_a_new_table_takes_the_place_of_the_old_one_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PAGE", tmp_path / "page.md")
    bench.PAGE.write_text("before\n| old |\nafter\n")
    path = tmp_path / "machine.md"
    bench.write_table(EPYC, path)
    assert bench.PAGE.read_text() == "before\n| old |\nafter\n"  # it shows another machine's
    path.write_text("| old |\n")
    bench.write_table(EPYC, path)
    assert bench.PAGE.read_text() == f"before\n{markdown(EPYC)}\nafter\n"
    assert path.read_text() == f"{markdown(EPYC)}\n"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_the_tables_are_those_of_the_results(path):
    results = json.loads(path.with_suffix(".json").read_text())
    table = markdown(results)
    assert path.read_text().strip() == table
    assert table in PAGE.read_text("utf-8")
    assert re.fullmatch(r"([a-z\d_-]+=[\d.]+ ?)+", last_line(results))
    assert set(results["speed"]) <= set(DATA)
    entries = [entry for figures in results["speed"].values() for entry in figures.items()]
    for entry in (entry for name, entry in entries if name not in ("peak_gflops", "peaks")):
        assert len(entry["samples_per_second"]["values"]) == results["repeats"] >= 3


def test_the_share_of_the_bf16_peak_is_given_only_where_it_was_measured():
    figures = {"ours": {"useful_gflops": {"median": 90.0}}, "peaks": [{"gflops": 200.0}]}
    assert bench.bf16_share(figures, "ours") is None
    figures["peaks"] = [{"gflops": 90.0, "bf16_gflops": rate} for rate in (100.0, 180.0, 900.0)]
    assert bench.bf16_share(figures, "ours") == 0.5


def test_folds_compare_times_with_the_trainer_at_its_best_in_the_same_folds():
    def fold(accuracy, seconds):
        return {"accuracy": accuracy, "seconds": seconds, "rows": 200}

    results = {
        "ours, epochs: 1": {"0": fold(0.8, 10), "1": fold(0.8, 30)},
        "ours, epochs: 2": {"0": fold(0.9, 50)},
        "trainer_tuned, epochs: 1": {"0": fold(0.7, 40), "1": fold(0.7, 40)},
        "trainer_tuned, epochs: 2": {"0": fold(0.8, 80), "1": fold(0.7, 80)},
    }
    assert folds.markdown(results).splitlines()[2:] == [
        "| ours, epochs: 1 | 2 | 0.8000 ± 0.0200 | 20 | 0.25 |",
        "| ours, epochs: 2 | 1 | 0.9000 ± 0.0212 | 50 | – |",
        "| trainer_tuned, epochs: 1 | 2 | 0.7000 ± 0.0229 | 40 | 0.50 |",
        "| trainer_tuned, epochs: 2 | 2 | 0.7500 ± 0.0217 | 80 | 1.00 |",
    ]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("folds-*.json")), ids=lambda path: path.stem)
def test_the_page_shows_the_folds(path):
    assert folds.markdown(json.loads(path.read_text())) in PAGE.read_text("utf-8")


def test_the_accuracies_in_prose_are_those_of_the_results():
    splits = ("test", "validation", "unused")
    sizes = (ALL["num_test"], ALL["num_validation"], ALL["num_train"] - NUM_TRAIN)
    answers = SEEDS["rt"] * sum(sizes)

    def mean(name, first, last):
        """Over the seeds, of the accuracy on some of the splits together."""
        weights, runs = sizes[first:last], EPYC["by_split"]["rt"][name].values()
        return fmean(fmean([run[s] for s in splits[first:last]], weights) for run in runs)

    def whole(data, name):
        return fmean(EPYC["accuracy"][data][name].values())

    own, tutorial = (list(EPYC["accuracy"]["rt"][name].values()) for name in ("ours", "seed"))
    assert len(own) == len(tutorial) == SEEDS["rt"]
    gains = [a - b for a, b in zip(own, tutorial, strict=True)]
    assert all(whole(data, "ours") >= whole(data, "seed") for data in ("rt", "imdb"))
    error = stdev(gains) / len(gains) ** 0.5
    for said in (
        f"on the {sum(sizes):,} reviews of rotten_tomatoes",
        f"{whole('imdb', 'ours'):.3f} against {whole('imdb', 'seed'):.3f} on imdb,",
        f"{whole('rt', 'ours'):.4f} against {whole('rt', 'seed'):.4f} on rotten_tomatoes,",
        f"is {answers * fmean(gains):.0f} of {answers:,} answers, its standard error",
        f"over the seeds is {answers * error:.0f},",
        f"behind, with {fmean(own[:5]):.4f} against {fmean(tutorial[:5]):.4f}.",
        f"`Trainer` has {whole('rt', 'trainer_tuned'):.3f} there.",
        f"by up to {100 * (max(own) - min(own)):.1f} points",
        f"On the {sum(sizes[:2]):,} test reviews",
        f"ours has {mean('ours', 0, 2):.3f} and the tutorial's {mean('seed', 0, 2):.3f};",
        f"other {sizes[2]:,}, on which",
        f"{mean('ours', 2, 3):.3f} and {mean('seed', 2, 3):.3f} (",
    ):
        assert said in PROSE, said


def test_the_recipe_is_as_fast_as_the_page_says():
    measured = pairs(last_line(EPYC))
    said = re.search(
        r"is to be (\d+) times as fast as the tutorial's on rotten_tomatoes and (\d+) times on imdb,"
        r" ([\d.]+) times as fast as the tuned `Trainer`, and at ([\d.]+) of the peak, and is\.",
        PROSE,
    )
    rt, imdb, trainer, peak = map(float, said.groups())
    assert measured["rt_vs_seed"] >= rt and measured["imdb_vs_seed"] >= imdb
    assert min(measured["rt_vs_trainer"], measured["imdb_vs_trainer"]) >= trainer
    assert min(measured["rt_peak"], measured["imdb_peak"]) >= peak


def test_the_page_has_the_figures_of_preparing_data():
    results = json.loads((RESULTS / "prepare.json").read_text())
    assert results["large"]["rows_a_second"] >= results["small"]["rows_a_second"]
    assert results["large"]["peak_memory_mib"] < 3 * 1024
    figures = [results[name]["rows_a_second"] for name in ("large", "small")]
    figures += [results[f"tokenizing_{way}"]["rows_a_core_second"] for way in ("ours", "map")]
    assert all(f"{figure:,}" in PROSE for figure in figures)
