"""`make bench-data`: preparing 650,000 reviews, as many as the full Yelp data set has.

The reviews are those of imdb, 26 times, with the sentences in another order each time. Prints the
rates for 25,000 and for all, peak memory, what is left to do after a kill, and the second run; and
how many rows a second of one core tokenizes, for ours and for `map(batched=True)` with its defaults.
"""

import argparse
import contextlib
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
from datasets import DatasetDict, load_dataset
from transformers import AutoTokenizer

from benchmarks.child import ROOT, run_child
from benchmarks.roads import tokenized_rows
from helpers.data import tokenize
from suite.names import packaged_dataset
from suite.resolve import find_model
from suite.rows import find_rows
from suite.runs import read_metrics, run_folder, write_json
from suite.settings import Settings
from suite.tokens import tokenize_parts

RESULTS = ROOT / "benchmarks" / "results"
ROWS = {"small": 25_000, "large": 650_000}


def write_reviews(path, rows):
    """Write `rows` different reviews to a CSV file."""
    table = pd.read_parquet(packaged_dataset("stanfordnlp/imdb"))
    shuffler = random.Random(0)
    for start in range(0, rows, len(table)):
        part = table[["text", "label"]].head(rows - start).copy()
        part["text"] = [shuffled(text, shuffler, start) for text in part["text"]]
        part.to_csv(path, mode="a", header=start == 0, index=False)


def shuffled(text, shuffler, start):
    """Return the sentences of a text in another order; a number keeps short texts different."""
    sentences = text.split(". ")
    shuffler.shuffle(sentences)
    return ". ".join(sentences) + (f" {start}" if start else "")


def measure_preparing(path, run_dir):
    """Have chapter 01 prepare 96 % of the rows of a file: the repeated ones, fewer than 4 %, are dropped.

    Returns its figures, with those of all processes for that.
    """
    start = time.perf_counter()
    (parts,) = find_rows(Settings(dataset_name=path)).parts.values()
    shares = {"num_train": 0.7, "num_validation": 0.12, "num_test": 0.14}
    sizes = {name: int(share * parts[0][1]) for name, share in shares.items()}
    settings = Settings(dataset_name=path, run_dir=run_dir, **sizes)
    dataset = tokenized_rows(settings)
    seconds, times = time.perf_counter() - start, os.times()
    metrics = read_metrics(run_folder(settings) / "metrics.json")
    return {
        "prepared_rows": sum(sizes.values()),
        "seconds": round(seconds, 1),
        "core_seconds": round(sum(times[:4]), 1),
        "peak_memory_mib": metrics["01_prepare_data"]["peak_memory_mib"],
        "first_tokens": dataset["train"][0]["input_ids"][:8],
    }


def measure_tokenizing(path, way):
    """Tokenize one file in this process, with `map` or with ours; return the rates."""
    tokenizer = AutoTokenizer.from_pretrained(find_model(Settings().model_name))
    dataset = DatasetDict(train=load_dataset("csv", data_files=path, split="train"))
    start, before = time.perf_counter(), os.times()
    if way == "map":
        dataset.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=512), batched=True
        )
    else:
        tokenize_parts(tokenize, dataset, tokenizer, 512)
    seconds, after = time.perf_counter() - start, os.times()
    core_seconds = after.user + after.system - before.user - before.system
    rows = dataset["train"].num_rows
    return {
        "rows_a_second": round(rows / seconds),
        "rows_a_core_second": round(rows / core_seconds),
    }


def measure(function, path, argument, cache, timeout=None):
    """Call one of the functions above in a fresh process, with the cache of 🤗 Datasets in `cache`."""
    environment = {"HF_HOME": str(cache)}
    call = f"benchmarks.prepare:{function}", str(path), str(argument)
    return run_child(*call, environment=environment, timeout=timeout)


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS["large"], help="default: 650000")
    arguments = parser.parse_args(arguments)
    results = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        folder = Path(folder)
        for name, rows in (("small", ROWS["small"]), ("large", arguments.rows)):
            path = folder / f"{name}.csv"
            write_reviews(path, rows)
            figures = measure("measure_preparing", path, folder / name, folder / name / "cache")
            figures["rows_a_second"] = round(figures["prepared_rows"] / figures["seconds"])
            results[name] = {"rows": rows, **figures}
            print(name, results[name], flush=True)
        for way in ("map", "ours"):
            cache = folder / "tokenizing" / way
            figures = measure("measure_tokenizing", folder / "small.csv", way, cache)
            results[f"tokenizing_{way}"] = figures
            print(way, figures, flush=True)
        cache = folder / "large" / "cache"
        again = measure("measure_preparing", path, folder / "large", cache)
        results["again_seconds"] = again["seconds"]
        other = measure("measure_preparing", path, folder / "other", cache)
        results["another_run_folder_seconds"] = other["seconds"]
        print("again:", again["seconds"], "in another run folder:", other["seconds"], flush=True)
        killed = "measure_preparing", path, folder / "killed", folder / "killed" / "cache"
        with contextlib.suppress(subprocess.TimeoutExpired):
            measure(*killed, timeout=0.6 * results["large"]["seconds"])
        rest = measure(*killed)
        assert rest["first_tokens"] == results["large"]["first_tokens"]
        results["after_a_kill_seconds"] = rest["seconds"]
        print("after a kill at 60 % of the time:", rest["seconds"], flush=True)
    for name in ROWS:
        del results[name]["first_tokens"]
    if arguments.rows == ROWS["large"]:
        write_json(RESULTS / "prepare.json", results)


if __name__ == "__main__":
    main()
