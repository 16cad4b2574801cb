"""Chapter 12's ways to run a model against torch: size, latency, rate, labels, each beside its bar."""

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
import pandas as pd
import torch
from datasets import load_from_disk
from onnxruntime.quantization import quantize_dynamic
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers.shipping import export_onnx, open_session, quantize_blocks, run_session
from suite.names import packaged_dataset
from suite.products import product
from suite.settings import Settings

# The speeds of int8 are asked for only where a processor multiplies int8 fast (VNNI or the like).
BARS = {
    "size": "≤ 0.30",
    "latency": "≤ 0.60",
    "rate": "≥ 1.50",
    "equal": "≥ 0.985",
    "gain": "≥ -0.010",
}


@torch.inference_mode()
def run_torch(model, batch):
    """Return the logits of a tokenized batch of numpy arrays."""
    return model(**{name: torch.from_numpy(ids) for name, ids in batch.items()}).logits.numpy()


def make_batches(texts, tokenizer, size):
    """Return the texts in batches of numpy arrays, sorted by length, and the order of their rows."""
    tokens = tokenizer(texts, truncation=True)
    order = np.argsort([len(ids) for ids in tokens["input_ids"]], kind="stable")
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    rows = [{name: [ids[row] for row in part] for name, ids in tokens.items()} for part in parts]
    return [tokenizer.pad(part, return_tensors="np") for part in rows], order


def ask(answer, batches):
    """Return the logits of all batches, and the seconds of each."""
    logits, seconds = [], []
    for batch in batches:
        start = perf_counter()
        logits.append(answer(batch))
        seconds.append(perf_counter() - start)
    return np.concatenate(logits), seconds


def layers_that_lose_most(file, batches, expected, folder):
    """Return (change, layer, node) for each matrix, the worst first, when it alone is int8 by column.

    change: root mean square of the logits' change; layer: named by the bias that is added to it
    node: its name in the ONNX file
    """
    graph, changes = onnx.load(file).graph, []
    weights = {one.name for one in graph.initializer}
    biases = {n.input[k]: n.input[1 - k] for n in graph.node if n.op_type == "Add" for k in (0, 1)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            one = Path(folder, "one.onnx")
            quantize_dynamic(file, one, per_channel=True, nodes_to_quantize=[node.name])
            logits, _ = ask(partial(run_session, open_session(one)), batches)
            name = biases.get(node.output[0], node.name).removesuffix(".bias")
            changes.append((float(np.sqrt(np.mean((logits - expected) ** 2))), name, node.name))
    return sorted(changes, reverse=True)


def compare(model, tokenizer, texts, labels, folder, repeats):
    """Print one line of figures for each way, and return them as {way: {figure: value}}.

    Rate and latency are medians over the repeats, all ways in turn; ratios to torch in float32.
    """
    files = {way: Path(folder, f"{way}.onnx") for way in ("float32", "by_column", "by_block")}
    export_onnx(model, tokenizer, files["float32"])
    quantize_dynamic(files["float32"], files["by_column"], per_channel=True)
    quantize_blocks(files["float32"], files["by_block"])
    ways = {"torch": partial(run_torch, model)}
    ways |= {way: partial(run_session, open_session(file)) for way, file in files.items()}
    batches, order = make_batches(texts, tokenizer, 32)
    single, _ = make_batches(texts[:200], tokenizer, 1)
    timed, latencies, seconds, logits = batches[: -(-1000 // 32)], {}, {}, {}
    for way, answer in ways.items():
        logits[way], _ = ask(answer, batches)
    for _ in range(repeats):
        for way, answer in ways.items():
            ask(answer, single[:5])
            latencies.setdefault(way, []).append(median(ask(answer, single)[1]))
            seconds.setdefault(way, []).append(sum(ask(answer, timed)[1]))
    found = {way: values.argmax(axis=1) for way, values in logits.items()}
    right, figures = np.array(labels)[order], {}
    for way, file in files.items():
        change = (found[way] == right).astype(int) - (found["torch"] == right)
        figures[way] = {
            "size": file.stat().st_size / files["float32"].stat().st_size,
            "latency": median(latencies[way]) / median(latencies["torch"]),
            "rate": median(seconds["torch"]) / median(seconds[way]),
            "equal": float(np.mean(found[way] == found["torch"])),
            "gain": float(change.mean()),
            "error_of_gain": float(change.std() / np.sqrt(len(change))),
            "logits": float(np.abs(logits[way] - logits["torch"]).max()),
        }
        print(way, " ".join(f"{name}={value:.4g}" for name, value in figures[way].items()))
    some = batches[:12]
    expected = logits["float32"][: sum(len(batch["input_ids"]) for batch in some)]
    worst = layers_that_lose_most(files["float32"], some, expected, folder)[:6]
    for change, layer, _ in worst:
        print(f"by column alone: {layer} changes the logits by {change:.3f}")
    one, nodes = Path(folder, "one.onnx"), [node for *_, node in worst]
    quantize_dynamic(files["float32"], one, per_channel=True, nodes_to_exclude=nodes)
    kept, _ = ask(partial(run_session, open_session(one)), batches)
    share = one.stat().st_size / files["float32"].stat().st_size
    same = np.mean(kept.argmax(axis=1) == found["torch"])
    print(f"by column, but these six in float32: size={share:.4g} equal={same:.4g}")
    return figures


def main():
    """Command line: prints the figures as key=value, and the bars of int8."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--texts", type=int, default=3000, help="reviews that were not trained on")
    arguments = parser.parse_args()
    settings = Settings()
    logging.disable(logging.WARNING)
    with product("data", settings) as folder:
        rows = load_from_disk(folder)
    with product("model", settings) as folder:
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    seen = {*rows["train"]["text"], *rows["validation"]["text"]}
    reviews = pd.read_parquet(packaged_dataset(settings.dataset_name)).drop_duplicates("text")
    reviews = reviews[~reviews["text"].isin(seen)].sample(arguments.texts, random_state=0)
    texts, labels = reviews["text"].tolist(), reviews["label"].tolist()
    with tempfile.TemporaryDirectory() as folder:
        compare(model, tokenizer, texts, labels, folder, arguments.repeats)
    print("bars of int8:", ", ".join(f"{name} {bar}" for name, bar in BARS.items()))


if __name__ == "__main__":
    main()
