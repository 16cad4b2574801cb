"""The benchmark runs, also without a GPU, and docs/benchmarks.md shows what it measured."""

import json
import os
import re
import shutil
import subprocess
import sys
from statistics import fmean, stdev

import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks import bench
from benchmarks.bench import ALL, DATA, NUM_TRAIN, PAGE, RESULTS, SEEDS, last_line, markdown
from benchmarks.child import run_child
from benchmarks.recipes import Task, seed_recipe, seed_recipe_text_by_text
from helpers.speed import has_fast_bf16, multiply_rate
from suite.resolve import find_model
from suite.settings import Settings

EPYC = json.loads((RESULTS / "amd-epyc-2-cores.json").read_text())
PROSE = " ".join(PAGE.read_text("utf-8").split())
RESULT_FILES = sorted(path.with_suffix(".json") for path in RESULTS.glob("*.md"))

# One process: all of them use one folder.
pytestmark = pytest.mark.xdist_group("bench")


@pytest.fixture(scope="module", autouse=True)
def leave_nothing_behind(root):
    """A dry run writes a model of half a gigabyte."""
    folder = root / "runs" / "bench"
    there = folder.exists()
    yield
    if not there:
        shutil.rmtree(folder, ignore_errors=True)


def dry_run(root, *arguments):
    command = [sys.executable, "-m", "benchmarks.bench", "--dry-run", "--repeats", "1", *arguments]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def pairs(line):
    return {key: float(value) for key, value in (pair.split("=") for pair in line.split())}


def highest_share():
    """Of the float32 peak: 1, or more where bf16 multiplies faster, with room for noise."""
    cpu = torch.device("cpu")
    if not has_fast_bf16(cpu):
        return 1.0
    fast, slow = (
        multiply_rate(2048, 2048, 2048, cpu, dtype) for dtype in (torch.bfloat16, torch.float32)
    )
    return max(1.0, 1.5 * fast / slow)


@pytest.mark.elsewhere
def test_a_dry_run_measures_ours_and_its_rival_in_turn(root):
    lines = dry_run(root, "--data", "rt", "--recipes", "trainer_tuned", "ours")
    measured = pairs(lines[-1])
    assert set(measured) == {"rt_vs_trainer", "rt_peak"}
    assert measured["rt_vs_trainer"] > 0.5
    assert 0.05 < measured["rt_peak"] < highest_share()
    assert [line.split()[2] for line in lines[:3]] == ["trainer_tuned", "ours", "peak"]


@pytest.mark.elsewhere
def test_the_dry_run_of_the_gpu_benchmark_needs_no_gpu(root):
    lines = dry_run(root, "--gpu", "--data", "rt-base", "--recipes", "ours")
    assert 0.05 < pairs(lines[-1])["rt-base_peak"] < highest_share()


def test_without_a_gpu_the_gpu_benchmark_says_so(root):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.bench", "--gpu"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == (
        "there is no GPU here: make bench-gpu ARGS=--dry-run tries the command without one"
    )


def test_batches_are_chosen_from_short_to_long():
    rows = {"input_ids": [[0] * size for size in range(1, 101)]}
    batches = [list(range(start, start + 5)) for start in range(0, 100, 5)]
    assert bench.choose_batches(batches, rows, None) == batches
    assert bench.choose_batches(batches[::-1], rows, 20) == [batches[i] for i in (2, 7, 12, 17)]


def test_the_tutorials_recipe_text_by_text_learns_the_same(tmp_path):
    """Its accuracy is measured that way, so without dropout the weights have to be equal."""
    tokenizer = AutoTokenizer.from_pretrained(find_model(Settings().model_name))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    texts = ["good " * (1 + row) if row % 3 else "bad film " * row for row in range(20)]
    rows = Dataset.from_dict(
        {**tokenizer(texts, truncation=True, max_length=40), "labels": [i % 2 for i in range(20)]}
    ).with_format("torch")
    task = Task(
        model_name=str(tmp_path),
        tokenizer=tokenizer,
        class_label=ClassLabel(names=["bad", "good"]),
        max_length=40,
        device=torch.device("cpu"),
        seed=1,
        max_tokens=64,
        batch_size=8,
    )
    whole, text_by_text = (
        recipe(task, rows, None, 3, lambda: None).state_dict()
        for recipe in (seed_recipe, seed_recipe_text_by_text)
    )
    start = BertForSequenceClassification.from_pretrained(tmp_path).state_dict()
    for name, weights in whole.items():
        if "key.bias" not in name:  # its gradient is 0 but for rounding, which AdamW blows up
            torch.testing.assert_close(text_by_text[name], weights, rtol=0, atol=1e-6, msg=name)
            assert name.startswith("bert.embeddings") or not torch.equal(weights, start[name])


def test_a_measurement_has_its_own_process_and_variables():
    path = run_child("os:getenv", "PATH")
    assert run_child("os:getenv", "PATH", environment={"PATH": f"{path}:/more"}) == f"{path}:/more"
    assert run_child("os:getpid") != os.getpid()


def test_a_measurement_that_fails_says_why():
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


@pytest.mark.parametrize("path", RESULT_FILES, ids=lambda path: path.stem)
def test_the_tables_are_those_of_the_results(path):
    results = json.loads(path.read_text())
    table = markdown(results)
    assert path.with_suffix(".md").read_text().strip() == table
    assert table in PAGE.read_text("utf-8")
    assert re.fullmatch(r"([a-z_-]+=[\d.]+ ?)+", last_line(results))
    assert set(results["speed"]) <= set(DATA)
    for figures in results["speed"].values():
        for name, entry in figures.items():
            if name not in ("peak_gflops", "peaks"):
                assert len(entry["samples_per_second"]["values"]) == results["repeats"] >= 3


def test_the_accuracies_in_prose_are_those_of_the_results():
    sizes = {
        "eval": ALL["num_eval"],
        "validation": ALL["num_validation"],
        "unused": ALL["num_train"] - NUM_TRAIN,
    }
    clean, unused = ["eval", "validation"], ["unused"]

    def mean(name, splits):
        weights = [sizes[split] for split in splits]
        runs = EPYC["by_split"]["rt"][name].values()
        return fmean(fmean([run[s] for s in splits], weights=weights) for run in runs)

    whole = {
        (data, name): fmean(runs.values())
        for data, recipes in EPYC["accuracy"].items()
        for name, runs in recipes.items()
    }
    own, tutorial = (list(EPYC["accuracy"]["rt"][name].values()) for name in ("ours", "seed"))
    assert len(own) == len(tutorial) == SEEDS["rt"]
    gains = [a - b for a, b in zip(own, tutorial, strict=True)]
    answers = len(own) * sum(sizes.values())
    assert all(whole[data, "ours"] >= whole[data, "seed"] for data in ("rt", "imdb"))
    error = stdev(gains) / len(gains) ** 0.5
    for said in (
        f"on the {sum(sizes.values()):,} reviews of rotten_tomatoes",
        f"{whole['imdb', 'ours']:.3f} against {whole['imdb', 'seed']:.3f} on imdb,",
        f"{whole['rt', 'ours']:.4f} against {whole['rt', 'seed']:.4f} on rotten_tomatoes,",
        f"is {answers * fmean(gains):.0f} of {answers:,} answers, its standard error",
        f"over the seeds is {answers * error:.0f},",
        f"behind, with {fmean(own[:5]):.4f} against {fmean(tutorial[:5]):.4f}.",
        f"`Trainer` has {whole['rt', 'trainer_tuned']:.3f} there.",
        f"by up to {100 * (max(own) - min(own)):.1f} points",
        f"On the {sizes['eval'] + sizes['validation']:,} test reviews",
        f"ours has {mean('ours', clean):.3f} and the tutorial's {mean('seed', clean):.3f};",
        f"other {sizes['unused']:,}, on which",
        f"{mean('ours', unused):.3f} and {mean('seed', unused):.3f} (",
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
