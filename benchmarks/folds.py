"""`make bench-folds`: all of rotten_tomatoes in five folds, so that each row is tested once.

Each training has a process and the whole processor for itself, so that times can be compared. It
takes hours and may be broken off: what stands in the results is not measured again.
"""

import argparse
from statistics import fmean
from time import perf_counter

from datasets import concatenate_datasets

from benchmarks.bench import DATA, RESULTS, file_name, load_task
from benchmarks.child import run_child
from benchmarks.recipes import RECIPES
from benchmarks.roads import Clock, tokenized_rows
from helpers.batches import make_dataloader
from helpers.data import longest_first
from helpers.evaluation import evaluate_model
from suite.runs import read_metrics, write_json

FOLDS = 5
RIVAL = "trainer_tuned"


def measure_fold(name, num_epochs, fold):
    """Train on four fifths of the rows; return the accuracy on the fifth, and the seconds."""
    task, splits = load_task("rt", "cpu", seed=fold)
    rows = concatenate_datasets(list(splits.values()))
    shards = [rows.shard(FOLDS, i, contiguous=False) for i in range(FOLDS)]
    test, train = shards.pop(fold), concatenate_datasets(shards)
    start = perf_counter()
    model = RECIPES[name][0](task, train, None, num_epochs, Clock())
    seconds = perf_counter() - start
    dataloader = make_dataloader(longest_first(test), task.tokenizer, 32)
    accuracy = evaluate_model(model, dataloader, task.device)[1]
    return {"accuracy": accuracy, "seconds": seconds, "rows": len(test)}


def mean(folds, figure):
    """Return the mean of a figure over some folds."""
    return fmean(fold[figure] for fold in folds.values())


def markdown(results):
    """Return the table of `results`, {recipe and epochs: {fold: figures}}.

    ± is the standard error over the rows that were tested. Times are shares of the time of the
    tuned `Trainer` with the number of epochs that gives it its best accuracy, in the same folds.
    """
    rivals = [folds for way, folds in results.items() if way.startswith(RIVAL)]
    best = max(rivals, key=lambda folds: mean(folds, "accuracy"), default={})
    lines = ["| | folds | accuracy | seconds | share of time |", "|---|---|---|---|---|"]
    for way, folds in sorted(results.items()):
        accuracy, seconds = mean(folds, "accuracy"), mean(folds, "seconds")
        error = (accuracy * (1 - accuracy) / sum(fold["rows"] for fold in folds.values())) ** 0.5
        share = f"{seconds / mean(best, 'seconds'):.2f}" if folds.keys() == best.keys() else "–"
        figures = f"{accuracy:.4f} ± {error:.4f} | {seconds:.0f} | {share}"
        lines.append(f"| {way} | {len(folds)} | {figures} |")
    return "\n".join(lines)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folds", description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["ours", RIVAL])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=range(FOLDS))
    arguments = parser.parse_args()
    path = RESULTS / f"folds-{file_name('cpu')}.json"
    results = read_metrics(path)
    tokenized_rows(DATA["rt"])
    for fold in arguments.folds:
        for num_epochs in arguments.epochs:
            for name in arguments.recipes:
                folds = results.setdefault(f"{name}, epochs: {num_epochs}", {})
                if str(fold) not in folds:
                    call = "benchmarks.folds:measure_fold", name, num_epochs, fold
                    folds[str(fold)] = run_child(*call)
                    write_json(path, results)
                    print(name, num_epochs, fold, folds[str(fold)], flush=True)
    print(markdown(results))
    print("bars: 0.83 by ours, in at most 0.45 of the time")


if __name__ == "__main__":
    main()
