"""`make bench`: how fast and how good each way to fine-tune is, on the same rows and machine.

Each measurement runs in a process of its own: speeds one after the other, with the repeats
interleaved, so that a slow minute of the machine hits all alike; accuracies two at a time on a
processor. Results go to benchmarks/results.
"""

import argparse
import json
import platform
import re
import statistics
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks.child import ROOT, run_child
from benchmarks.recipes import RECIPES, Task, seed_recipe_text_by_text
from benchmarks.roads import Clock, tokenized_rows
from helpers.batches import make_dataloader, to_model_inputs
from helpers.data import longest_first, token_counts
from helpers.evaluation import evaluate_model
from helpers.speed import has_fast_bf16, multiply_rate, training_flops
from suite.resolve import find_model
from suite.runs import peak_memory_mib, write_json
from suite.settings import Settings

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
RT, IMDB = "cornell-movie-review-data/rotten_tomatoes", "stanfordnlp/imdb"
BASE = ROOT / "runs" / "bench" / "bert-base"
NUM_TRAIN = 1000
# All that rotten_tomatoes has of them: its texts are short, so there is time to test on more.
ALL = {"num_train": 6162, "num_validation": 1088, "num_test": 1280}
DATA = {
    "rt": Settings(dataset_name=RT, run_dir="runs/bench/rt", **ALL),
    "imdb": Settings(dataset_name=IMDB, run_dir="runs/bench/imdb"),
    "rt-base": Settings(model_name=str(BASE), dataset_name=RT, run_dir="runs/bench/rt-base"),
    "imdb-base": Settings(model_name=str(BASE), dataset_name=IMDB, run_dir="runs/bench/imdb-base"),
}
# No recipe looks at the validation rows, so they are test rows too. Ours was chosen on `unused`:
# training rows that no recipe trains on.
TEST_SPLITS = {"rt": ["test", "validation", "unused"]}
TITLES = {
    "rt": "rotten_tomatoes",
    "imdb": "imdb, cut at 512 tokens",
    "rt-base": "rotten_tomatoes, BERT-base",
    "imdb-base": "imdb, BERT-base",
}
NAMES = {
    "seed": "the tutorial's recipe",
    "trainer": "`Trainer`, defaults",
    "trainer_tuned": "`Trainer`, tuned",
    "keras": "Keras, chapter 9",
    "ours": "ours, chapters 10 and 14",
}
# On average: our batches hold as many tokens as this many texts of mean length.
TEXTS_A_STEP = {"cpu": 16, "cuda": 64}
JOBS = {"cpu": 2, "cuda": 1}  # accuracies that are measured at a time
WARM_UP = 2  # steps that are not timed
SEEDS = {"rt": 10, "imdb": 5, "rt-base": 5, "imdb-base": 5}  # long texts take hours
# How many rows of an epoch are timed; None means all. All batches of the tutorial's recipe have the
# same shape, so two of them say as much as all.
ROWS = {
    "quick": {"seed": 16, "rt": None, "imdb": 128},
    "full": {"seed": 48, "rt": None, "imdb": 480},
    "gpu": {"seed": 256, "rt": None, "imdb": None, "rt-base": None, "imdb-base": None},
    "dry": {"seed": 8, "rt": 32, "imdb": 32, "rt-base": 16, "imdb-base": 4},
}
WITH_ACCURACY = ("seed", "trainer_tuned", "ours")
# Of a processor, by whether it multiplies bf16 fast.
BARS = {False: "rt_vs_trainer=1.5 rt_peak=0.75", True: "imdb_bf16_peak=0.6"}


def load_task(data, device, seed=42):
    """Return the Task and the rows, split by split; `unused` are the training rows beyond `NUM_TRAIN`."""
    settings = DATA[data]
    dataset = tokenized_rows(settings)
    rows = to_model_inputs(dataset)
    if settings.num_train > NUM_TRAIN:
        rows["unused"] = rows["train"].skip(NUM_TRAIN)
        rows["train"] = rows["train"].take(NUM_TRAIN)
    texts = TEXTS_A_STEP[device]
    mean_length = round(token_counts(rows["train"]).mean())
    task = Task(
        model_name=settings.model_name,
        tokenizer=AutoTokenizer.from_pretrained(find_model(settings.model_name)),
        class_label=dataset["train"].features["label"],
        max_length=settings.max_length,
        device=torch.device(device),
        seed=seed,
        max_tokens=max(texts * mean_length, settings.max_length),
        batch_size=texts,
    )
    return task, rows


def make_bert_base():
    """Write a BERT of base size with random weights: its speed is that of a trained one."""
    if not (BASE / "config.json").is_file():
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig()).save_pretrained(BASE)
        AutoTokenizer.from_pretrained(find_model(Settings().model_name)).save_pretrained(BASE)


def choose_batches(batches, rows, num_rows):
    """Return the batches to time, evenly spaced over an epoch from short to long.

    All of them if `num_rows` is None, else as many as have about so many rows together.
    """
    size = token_counts(rows).tolist()
    batches = sorted(batches, key=lambda batch: len(batch) * max(size[row] for row in batch))
    rows_a_batch = sum(map(len, batches)) / len(batches)
    count = len(batches) if num_rows is None else max(2, round(num_rows / rows_a_batch))
    step = len(batches) / min(count, len(batches))
    return [batches[int(step * (i + 0.5))] for i in range(min(count, len(batches)))]


def measure_speed(name, data, device, num_rows):
    """Train with one recipe on some batches of an epoch, and work out the speed of all of it."""
    recipe, epoch = RECIPES[name]
    task, rows = load_task(data, device)
    rows = rows["train"]
    batches = list(epoch(rows, task))
    if name != "ours":
        batches = [batch for batch in batches if len(batch) == len(batches[0])]
    chosen = choose_batches(batches, rows, num_rows)
    clock = Clock()
    warm_up = [chosen[-1]] * WARM_UP  # the longest, so that later ones find the memory set up
    recipe(task, rows, warm_up + chosen, 1, clock)
    seconds = (clock.times[-1] - clock.times[WARM_UP - 1]) / len(chosen) * len(batches)
    config = AutoConfig.from_pretrained(find_model(task.model_name), num_labels=2)
    size = token_counts(rows).tolist()
    texts = [row for batch in batches for row in batch]
    flops = sum(training_flops(config, size[row]) for row in texts)
    longest = [task.max_length if name == "seed" else max(size[row] for row in b) for b in batches]
    computed = sum(len(batch) * most for batch, most in zip(batches, longest, strict=True))
    memory = torch.cuda.max_memory_allocated() if task.device.type == "cuda" else 0
    return {
        "samples_per_second": len(texts) / seconds,
        "useful_gflops": flops / seconds / 1e9,
        "padding": 1 - sum(size[row] for row in texts) / computed,
        "peak_memory_mib": memory / 2**20 or peak_memory_mib(),
        "batches_timed": len(chosen),
    }


def measure_accuracy(name, data, device, seed):
    """Train three epochs; return the accuracy on all test rows, and on each split of them."""
    task, rows = load_task(data, device, seed)
    recipe = seed_recipe_text_by_text if name == "seed" else RECIPES[name][0]
    model = recipe(task, rows["train"], None, 3, Clock())
    by_split = {}
    for split in TEST_SPLITS.get(data, ["test"]):
        dataloader = make_dataloader(longest_first(rows[split]), task.tokenizer, 32)
        by_split[split] = evaluate_model(model, dataloader, task.device)[1]
    sizes = [len(rows[split]) for split in by_split]
    accuracy = statistics.fmean(by_split.values(), weights=sizes)
    return {"accuracy": accuracy, "by_split": by_split}


def measure_peak(data, device):
    """Return GFLOP/s of multiplying matrices: 2048³, and the shapes that one of our batches has.

    On a GPU in bfloat16. On a processor in float32, and the best of bfloat16 beside it if it has
    instructions for that.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    task, _ = load_task(data, device)
    config = AutoConfig.from_pretrained(find_model(task.model_name))
    tokens, hidden, wide = task.max_tokens, config.hidden_size, config.intermediate_size
    square = 8192 if device == "cuda" else 2048
    shapes = [(square,) * 3, (tokens, hidden, hidden), (tokens, hidden, wide)]
    shapes += [(tokens, wide, hidden), (hidden, tokens, wide)]
    figures = {
        "x".join(map(str, shape)): multiply_rate(*shape, task.device, dtype, seconds=1) / 1e9
        for shape in shapes
    }
    peak = {"gflops": max(figures.values()), "shapes": figures}
    if device == "cpu" and has_fast_bf16(task.device):
        rates = [multiply_rate(*shape, task.device, torch.bfloat16, seconds=1) for shape in shapes]
        peak["bf16_gflops"] = max(rates) / 1e9
    return peak


def summary(values):
    """Return median, least and largest of a list of numbers."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "largest": max(values),
        "values": values,
    }


def bench_speed(kind, device, names, datasets, repeats):
    """Return the speed of each recipe on each data set, and the machine's peak, in turn."""
    for data in datasets:
        if data.endswith("-base"):
            make_bert_base()
        tokenized_rows(DATA[data])
    measured = {data: {name: [] for name in (*names, "peak")} for data in datasets}
    for repeat in range(repeats):
        for data in datasets:
            for name in (*names, "peak"):
                if name == "peak":
                    figures = run_child("benchmarks.bench:measure_peak", data, device)
                else:
                    rows = ROWS[kind]["seed" if name == "seed" else data]
                    figures = run_child("benchmarks.bench:measure_speed", name, data, device, rows)
                measured[data][name].append(figures)
                shown = (f"{key} {value:.4g}" for key, value in figures.items() if key != "shapes")
                print(f"{repeat + 1}/{repeats} {data:10}{name:14}", *shown, flush=True)
    speed = {}
    for data, runs in measured.items():
        peak = statistics.median(run["gflops"] for run in runs["peak"])
        speed[data] = {"peak_gflops": peak, "peaks": runs.pop("peak")}
        for name, figures in runs.items():
            entry = {key: summary([run[key] for run in figures]) for key in figures[0]}
            entry["share_of_peak"] = entry["useful_gflops"]["median"] / peak
            speed[data][name] = entry
    return speed


def bench_accuracy(results, device, names, datasets, path):
    """Measure the accuracy of each recipe with each seed, `JOBS` at a time, and add it to `path`.

    What stands there already is not measured again: the runs take hours and may be broken off.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // JOBS[device]))}
    missing = []
    for data in datasets:
        tokenized_rows(DATA[data])
        for seed in range(SEEDS[data]):
            for name in names:
                values = results["accuracy"].setdefault(data, {}).setdefault(name, {})
                if str(seed) not in values:
                    missing.append((name, data, device, seed))

    def measure(run):
        return run, run_child("benchmarks.bench:measure_accuracy", *run, environment=threads)

    with ThreadPool(JOBS[device]) as pool:
        for (name, data, _, seed), measured in pool.imap_unordered(measure, missing):
            for figure, value in measured.items():
                recipes = results.setdefault(figure, {}).setdefault(data, {})
                recipes[name] = dict(sorted({**recipes.get(name, {}), str(seed): value}.items()))
            print(f"accuracy {data:5}{name:14}{seed}: {measured['accuracy']:.3f}", flush=True)
            write_json(path, results)


def machine(device):
    """Return the name of the processor or GPU, and how many cores there are."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return f"{found[1] if found else platform.machine()}, {torch.get_num_threads()} cores"


def file_name(device):
    """Return the name of the machine as its results have it."""
    return re.sub(r"[^a-z0-9]+", "-", machine(device).lower()).strip("-")


def bf16_share(figures, name):
    """Return a recipe's share of the bf16 peak of a processor, or None if that has none."""
    peaks = [run["bf16_gflops"] for run in figures["peaks"] if "bf16_gflops" in run]
    return figures[name]["useful_gflops"]["median"] / statistics.median(peaks) if peaks else None


def markdown(results):
    """Return the table of `make bench`."""
    lines = [
        "| | samples a second | ours is faster by | share of peak | of bf16's | padding | peak memory"
        " | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data, figures in results["speed"].items():
        lines.append(f"| **{TITLES[data]}** | | | | | | | |")
        own = figures["ours"]["samples_per_second"]["median"]
        for name, title in NAMES.items():
            if name not in figures:
                continue
            entry = figures[name]
            speed = entry["samples_per_second"]
            accuracy = results["accuracy"].get(data, {}).get(name, {})
            of_bf16 = bf16_share(figures, name)
            lines.append(
                f"| {title} | {speed['median']:.2f} ({speed['least']:.2f} to {speed['largest']:.2f})"
                f" | {own / speed['median']:.2f} × | {entry['share_of_peak']:.2f}"
                f" | {f'{of_bf16:.2f}' if of_bf16 else '–'}"
                f" | {entry['padding']['median']:.0%}"
                f" | {entry['peak_memory_mib']['median'] / 1024:.1f} GiB"
                f" | {show_accuracy(accuracy)} |"
            )
    return "\n".join(lines)


def write_table(results, path):
    """Write the table of `results` to `path`, and to PAGE if that shows what was in `path`."""
    table = markdown(results) + "\n"
    if path.is_file():
        PAGE.write_text(PAGE.read_text("utf-8").replace(path.read_text("utf-8"), table), "utf-8")
    path.write_text(table, "utf-8")


def show_accuracy(values):
    """Return mean and spread over the seeds as text."""
    if len(values) < 2:
        return "not measured"
    numbers = list(values.values())
    return f"{statistics.mean(numbers):.3f} ± {statistics.stdev(numbers):.3f} ({len(values)} seeds)"


def last_line(results):
    """Return the ratios that decide, as `key=value` pairs."""
    pairs = []
    for key, rival in (("seed", "seed"), ("trainer", "trainer_tuned")):
        for data, figures in results["speed"].items():
            if rival in figures:
                speed = [figures[name]["samples_per_second"]["median"] for name in ("ours", rival)]
                pairs.append(f"{data}_vs_{key}={speed[0] / speed[1]:.2f}")
    for data, figures in results["speed"].items():
        pairs.append(f"{data}_peak={figures['ours']['share_of_peak']:.3f}")
        if of_bf16 := bf16_share(figures, "ours"):
            pairs.append(f"{data}_bf16_peak={of_bf16:.3f}")
    return " ".join(pairs)


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="on a GPU, with BERT-base too")
    part = parser.add_mutually_exclusive_group()
    for option, meaning in {
        "--quick": "speed alone, on fewer rows: within 25 minutes",
        "--accuracy": "accuracy alone, what the results lack of it",
        "--dry-run": "a few rows on the processor, nothing is written",
    }.items():
        part.add_argument(option, action="store_true", help=meaning)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repeats; default 3")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--data", nargs="+", choices=DATA, help="default: rt imdb")
    arguments = parser.parse_args(arguments)
    if arguments.gpu and not arguments.dry_run and not torch.cuda.is_available():
        sys.exit(
            "there is no GPU here: make bench-gpu ARGS=--dry-run tries the command without one"
        )
    device = "cuda" if arguments.gpu and not arguments.dry_run else "cpu"
    names, datasets = arguments.recipes, arguments.data or ["rt", "imdb"]
    kind = "quick" if arguments.quick else "full"
    if arguments.gpu:
        kind, names = "gpu", [name for name in names if name in WITH_ACCURACY]
        datasets = arguments.data or list(DATA)
    if arguments.dry_run:
        kind = "dry"
    path = RESULTS / f"{file_name(device)}.json"
    results = {"machine": machine(device), "kind": kind, "repeats": arguments.repeats}
    old = json.loads(path.read_text()) if path.is_file() else {}
    if arguments.accuracy:
        if "speed" not in old:
            sys.exit(f"{path} has no speeds yet: measure them first, with --quick")
        results = old
    else:
        results["speed"] = bench_speed(kind, device, names, datasets, arguments.repeats)
        results |= {figure: old.get(figure, {}) for figure in ("accuracy", "by_split")}
    if not arguments.dry_run:
        RESULTS.mkdir(exist_ok=True)
        write_json(path, results)
        if kind == "full" or arguments.accuracy:
            names = [name for name in names if name in WITH_ACCURACY]
            bench_accuracy(results, device, names, datasets, path)
        write_table(results, path.with_suffix(".md"))
    print("\n" + markdown(results) + "\n")
    if device == "cpu":
        print("bars:", BARS[has_fast_bf16(torch.device(device))])
    print(last_line(results))


if __name__ == "__main__":
    main()
