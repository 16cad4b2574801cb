"""`make bench-data`: preparing 650,000 reviews, as many as the full Yelp data set has.

The reviews are those of imdb, 26 times, with the sentences in another order each time. Prints the
rates for 25,000 and for all, peak memory, what is left to do after a kill, and the second run; and
how many rows a second of one core tokenizes, for ours and for `map(batched=True)` with its defaults.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from helpers.runs import peak_memory_mib, write_json
from helpers.sources import find_dataset

RESULTS = Path(__file__).resolve().parent / "results"
ROWS = {"small": 25_000, "large": 650_000}


def write_reviews(path, rows):
    """Write `rows` different reviews to a CSV file."""
    source = find_dataset("stanfordnlp/imdb")
    table = pd.read_csv(source.options["data_files"])
    table = table[table["source"] == source.only]
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


def measure_one(path, run_dir):
    """Prepare one file in this process and print its figures."""
    from helpers.data import prepare_data
    from helpers.parameters import check_values

    start = time.perf_counter()
    settings = check_values({"dataset_name": str(path), "run_dir": str(run_dir)})
    dataset = prepare_data(settings)
    seconds = time.perf_counter() - start
    times = os.times()
    figures = {
        "seconds": round(seconds, 1),
        "core_seconds": round(times.user + times.system, 1),
        "peak_memory_mib": round(peak_memory_mib()),
        "first_tokens": dataset["train"][0]["input_ids"][:8],
    }
    print(json.dumps(figures))


def measure_tokenizing(path, way):
    """Tokenize one file in this process, one way or the other, and print the rates."""
    from datasets import DatasetDict, load_dataset
    from transformers import AutoTokenizer

    from helpers.data import tokenize_parts
    from helpers.parameters import Settings
    from helpers.sources import find_model

    tokenizer = AutoTokenizer.from_pretrained(find_model(Settings().model_name))
    dataset = DatasetDict(train=load_dataset("csv", data_files=str(path), split="train"))
    start, before = time.perf_counter(), os.times()
    if way == "map":
        dataset.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=512), batched=True
        )
    else:
        tokenize_parts(dataset, tokenizer, 512, path.parent / "tokens")
    seconds, after = time.perf_counter() - start, os.times()
    core_seconds = after.user + after.system - before.user - before.system
    rows = dataset["train"].num_rows
    figures = {
        "rows_a_second": round(rows / seconds),
        "rows_a_core_second": round(rows / core_seconds),
    }
    print(json.dumps(figures))


def start_one(path, second, cache, measure="--one"):
    """Start a measurement in a process of its own, with the cache of 🤗 Datasets in `cache`."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.prepare", measure, str(path), str(second)],
        cwd=RESULTS.parent.parent,
        env={**os.environ, "HF_HOME": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return what a process of `start_one` measured."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"preparing failed with {process.returncode}")
    return json.loads(output.splitlines()[-1])


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS["large"], help="default: 650000")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--tokenize", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(arguments)
    if arguments.one:
        measure_one(*map(Path, arguments.one))
        return
    if arguments.tokenize:
        path, way = arguments.tokenize
        measure_tokenizing(Path(path), way)
        return
    results = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        folder = Path(folder)
        for name, rows in (("small", ROWS["small"]), ("large", arguments.rows)):
            path = folder / f"{name}.csv"
            write_reviews(path, rows)
            figures = finish(start_one(path, folder / name, folder / name / "cache"))
            figures["rows_a_second"] = round(rows / figures["seconds"])
            results[name] = {"rows": rows, **figures}
            print(name, results[name], flush=True)
        for way in ("map", "ours"):
            cache = folder / "tokenizing" / way
            figures = finish(start_one(folder / "small.csv", way, cache, "--tokenize"))
            results[f"tokenizing_{way}"] = figures
            print(way, figures, flush=True)
        again = finish(start_one(path, folder / "large", folder / "large" / "cache"))
        results["again_seconds"] = again["seconds"]
        other = finish(start_one(path, folder / "other", folder / "large" / "cache"))
        results["another_run_folder_seconds"] = other["seconds"]
        print("again:", again["seconds"], "in another run folder:", other["seconds"], flush=True)
        killed = start_one(path, folder / "killed", folder / "killed" / "cache")
        time.sleep(results["large"]["seconds"] * 0.6)
        killed.kill()
        killed.communicate()
        rest = finish(start_one(path, folder / "killed", folder / "killed" / "cache"))
        assert rest["first_tokens"] == results["large"]["first_tokens"]
        results["after_a_kill_seconds"] = rest["seconds"]
        print("after a kill at 60 % of the time:", rest["seconds"], flush=True)
    for name in ROWS:
        del results[name]["first_tokens"]
    if arguments.rows == ROWS["large"]:
        write_json(RESULTS / "prepare.json", results)


if __name__ == "__main__":
    main()
