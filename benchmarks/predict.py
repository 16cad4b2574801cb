"""`finetuning predict` against the pipeline of transformers with its defaults: speed, labels, memory."""

import argparse
import csv
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import pandas as pd

from benchmarks.child import run_child
from suite.names import packaged_dataset
from suite.runs import peak_memory_mib
from suite.settings import Settings

DATA = {
    "rt": ("cornell-movie-review-data/rotten_tomatoes", 2000),
    "imdb": ("stanfordnlp/imdb", 500),
}
MANY = 200_000


def save_model(folder):
    """Write the default model with a new head for two classes, and its tokenizer."""
    from datasets import ClassLabel
    from transformers import AutoTokenizer

    from helpers.training import load_model
    from suite.resolve import find_model

    settings = Settings()
    classes = ClassLabel(names=["negative", "positive"])
    load_model(settings.model_name, classes, 0.0, settings.seed).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_model(settings.model_name)).save_pretrained(folder)


def with_pipeline(model, file):
    """Return labels, seconds of the call, and the most memory of this process, of the pipeline."""
    from transformers import pipeline

    texts = pd.read_csv(file)["text"].tolist()
    classify = pipeline("text-classification", model=model)
    start = perf_counter()
    answers = classify(texts, truncation=True)
    seconds = perf_counter() - start
    return [answer["label"] for answer in answers], seconds, peak_memory_mib()


def with_predict(model, file):
    """Return the same of `finetuning predict`, reading and writing included."""
    from suite.predict import predict_file

    output = Path(file).with_suffix(".answers.csv")
    _, _, seconds = predict_file(model, file, output, overwrite=True)
    with open(output, encoding="utf-8", newline="") as opened:
        labels = [row["label"] for row in csv.DictReader(opened)]
    return labels if len(labels) < MANY else [], seconds, peak_memory_mib()


def compare(model, folder, name, repeats):
    """Return the ratio of the speeds, medians over the repeats, both sides in turn."""
    dataset, count = DATA[name]
    rows = pd.read_parquet(packaged_dataset(dataset)).sample(count, random_state=0)
    file = str(Path(folder, f"{name}.csv"))
    rows[["text"]].to_csv(file, index=False)
    seconds, memory = {"pipeline": [], "predict": []}, {}
    for repeat in range(repeats):
        labels = {}
        for side, taken in seconds.items():
            labels[side], time, memory[side] = run_child(
                f"benchmarks.predict:with_{side}", model, file
            )
            taken.append(time)
            print(
                f"{name} {side} {repeat + 1}/{repeats}: {count / time:.1f} texts a second",
                flush=True,
            )
        same = sum(one == other for one, other in zip(*labels.values(), strict=True))
        assert same == count, f"{count - same} of {count} labels differ"
    return median(seconds["pipeline"]) / median(seconds["predict"]), memory["pipeline"]


def main():
    """Command line: prints the ratios as key=value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--many", type=int, default=MANY, help="rows to measure the memory with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model"))
        run_child("benchmarks.predict:save_model", model)
        ratios, memory = {}, 0
        for name in DATA:
            ratios[f"{name}_vs_pipeline"], memory = compare(model, folder, name, arguments.repeats)
        # Against the pipeline's for the 500 long texts: it would hold all rows and answers in memory.
        file = Path(folder, "many.csv")
        texts = [f"film number {number} is fine" for number in range(arguments.many)]
        pd.DataFrame({"text": texts}).to_csv(file, index=False)
        _, seconds, ours = run_child("benchmarks.predict:with_predict", model, str(file))
        print(
            f"{arguments.many} rows: {ours:.0f} MiB in {seconds:.0f} s; 500 of imdb by pipeline: {memory:.0f} MiB"
        )
        ratios["memory"] = ours / memory
    print(" ".join(f"{name}={ratio:.2f}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
