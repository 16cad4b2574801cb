"""The roads side by side: the same start, the same batches, each road in a process of its own.

Dropout is off, and all have the GELU that KerasHub has, so nothing but the road can differ.
Chapter 06 shows what `measure_roads` returns, chapter 07 what `get_roads` does; tests/test_roads.py
holds the figures to their bounds.
"""

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_scheduler,
)

from helpers.batches import make_dataloader, to_model_inputs
from helpers.data import prepare_data
from helpers.parameters import Settings
from helpers.runs import (
    HELPERS,
    MODEL_PARAMETERS,
    locked,
    made_by,
    peak_memory_mib,
    read_metrics,
    run_folder,
    write_json,
)
from helpers.sources import find_model
from helpers.start_tensorflow import check_installed
from helpers.training import (
    evaluate_model,
    load_model,
    parameter_groups,
    pick_device,
    train_one_epoch,
    trained_model,
)

# Steps that are left out of the speed: the first ones build graphs and warm caches up.
WARM_UP = 5

# The roads of chapter 06: what it measured, chapter 07 need not measure again.
KEPT = ("PyTorch", "Trainer")

# What a road consists of, from tokenized rows to the best model on disk: {file: functions}.
CODE = {
    "PyTorch": {
        "batches.py": ["make_dataloader"],
        "training.py": [
            "load_model",
            "parameter_groups",
            "evaluate_model",
            "train_one_epoch",
            "train_model",
        ],
    },
    "Trainer": {
        "training.py": ["load_model"],
        "trainer_road.py": [
            "compute_metrics",
            "keep_predictions",
            "make_training_arguments",
            "train_with_trainer",
        ],
    },
    "Keras": {
        "batches.py": ["make_dataloader"],
        "keras_road.py": [
            "keras_batches",
            "build_classifier",
            "LinearWarmup",
            "make_keras_optimizer",
            "train_with_keras",
        ],
    },
}


def measure_roads(settings, roads, num_steps=20):
    """Train `num_steps` steps on each road; return {road: figures}.

    roads: some of "PyTorch", "Trainer", "Keras"
    figures: `logits` of the first batch before training, shape (batch, classes); `losses` of the
    steps; `samples_per_second` without the first 5 steps; `peak_memory_mib` of the road's process

    Raises KerasMissing if "Keras" is asked for and not installed, RuntimeError with the last
    lines of a road's process if that fails.
    """
    if "Keras" in roads:
        check_installed()
    with tempfile.TemporaryDirectory() as folder:
        save_start(settings, Path(folder, "start"))
        command = [sys.executable, "-m", "helpers.roads", folder, str(num_steps)]
        command.append(json.dumps(asdict(settings)))
        measured = {}
        for road in roads:  # one at a time: speed and memory are to be its own
            done = subprocess.run(
                [*command, road], cwd=HELPERS.parent, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"the road {road} failed:\n{done.stderr[-2000:]}")
            measured[road] = json.loads(done.stdout.splitlines()[-1])
    file, stamp = _kept(settings, num_steps)
    kept = {
        road: {"made_by": stamp, "figures": measured[road]} for road in KEPT if road in measured
    }
    with locked(file):
        write_json(file, read_metrics(file) | kept)
    return measured


def get_roads(settings, roads, num_steps=20):
    """Return what `measure_roads` returns; take from `run_dir` what was measured there before.

    Only what was measured with the same settings, and never Keras.
    """
    file, stamp = _kept(settings, num_steps)
    kept = {
        road: entry["figures"]
        for road, entry in read_metrics(file).items()
        if road in roads and entry["made_by"] == stamp
    }
    missing = [road for road in roads if road not in kept]
    measured = kept | (measure_roads(settings, missing, num_steps) if missing else {})
    return {road: measured[road] for road in roads}


def _kept(settings, num_steps):
    stamp = made_by(settings, MODEL_PARAMETERS)
    return run_folder(settings) / "roads.json", {**stamp, "num_steps": num_steps}


def largest_difference(measured, figure="losses"):
    """Return how far apart the roads lie at most in one figure of `measure_roads`."""
    values = torch.tensor([figures[figure] for figures in measured.values()])
    return (values.max(dim=0).values - values.min(dim=0).values).max().item()


def accuracy_of(road, settings):
    """Return the accuracy on the test rows of the model that the road's chapter trains.

    Takes the model from `run_dir`, or trains it, with the chapter's own settings: dropout is on.
    """
    rows = to_model_inputs(prepare_data(settings))["eval"]
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    dataloader = make_dataloader(rows, tokenizer, settings.batch_size)
    if road == "Keras":
        from helpers.keras_road import keras, keras_batches, keras_model

        with keras_model(settings) as folder:
            classifier = keras.models.load_model(folder / "model.keras")
        logits = torch.tensor(classifier.predict(keras_batches(dataloader), verbose=0))
        return (
            (logits.argmax(dim=-1) == rows.with_format("torch")["labels"][:]).float().mean().item()
        )
    from helpers.trainer_road import trainer_model

    with (trained_model if road == "PyTorch" else trainer_model)(settings) as folder:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return evaluate_model(model, dataloader, model.device)[1]


def lines_of_code(road):
    """Return how many lines a road's functions have, without comments and docstrings."""
    count = 0
    for file, names in CODE[road].items():
        source = (HELPERS / file).read_text(encoding="utf-8")
        lines = source.splitlines()
        for definition in ast.parse(source).body:
            if getattr(definition, "name", None) in names:
                inside = set(range(definition.lineno, definition.end_lineno + 1))
                for node in ast.walk(definition):
                    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                        inside -= set(range(node.lineno, node.end_lineno + 1))  # a docstring
                code = (lines[number - 1].strip() for number in inside)
                count += sum(bool(line) and not line.startswith("#") for line in code)
    return count


def print_roads(measured, accuracies):
    """Print the table of the roads: lines of code, speed, memory, and accuracy on the test rows."""
    print(f"{'road':<10}{'lines of code':>14}{'samples/s':>12}{'peak MiB':>12}{'accuracy':>12}")
    for road, figures in measured.items():
        speed, memory = figures["samples_per_second"], figures["peak_memory_mib"]
        columns = (f"≈ {speed:.1f}", f"≈ {memory:.0f}", f"≈ {accuracies[road]:.3f}")
        print(f"{road:<10}{lines_of_code(road):>14}" + "".join(f"{text:>12}" for text in columns))


def save_start(settings, folder):
    """Write the model that every road starts from, with its new head, to `folder`."""
    class_label = prepare_data(settings)["train"].features["label"]
    load_model(settings.model_name, class_label, 0.0, settings.seed).save_pretrained(folder)


def load_start(folder):
    """Return the model of `save_start` without dropout and with the GELU of KerasHub."""
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "hidden_act", None) == "gelu":
        config.hidden_act = "gelu_pytorch_tanh"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def first_rows(settings, num_steps):
    """Return the rows of the first training batches of chapter 04, in their order, and the tokenizer."""
    rows = to_model_inputs(prepare_data(settings))["train"]
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    train_dataloader = make_dataloader(
        rows,
        tokenizer,
        settings.batch_size,
        shuffle=True,
        group_by_length=settings.group_by_length,
        seed=settings.seed,
    )
    order = list(train_dataloader.sampler)
    return rows.select(order[: num_steps * settings.batch_size]), tokenizer


def train_pytorch(model, rows, tokenizer, settings):
    """Train one pass with the loop of chapter 04; return the losses and the times of the steps."""
    device = pick_device(settings.device)
    model.to(device)
    train_dataloader = make_dataloader(rows, tokenizer, settings.batch_size)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True
    )
    lr_scheduler = get_scheduler(
        name="linear",
        optimizer=optimizer,
        num_warmup_steps=int(settings.warmup_ratio * len(train_dataloader)),
        num_training_steps=len(train_dataloader),
    )
    times = []
    clock = SimpleNamespace(update=lambda _: times.append(perf_counter()))
    steps = []
    train_one_epoch(
        model,
        train_dataloader,
        optimizer,
        lr_scheduler,
        settings.max_grad_norm,
        device,
        clock,
        steps,
    )
    return [loss for loss, _ in steps], times


def train_trainer(model, rows, tokenizer, settings):
    """Train one pass with `Trainer`; return the losses and the times of the steps."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback

    from helpers.trainer_road import make_training_arguments

    times = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            times.append(perf_counter())

    settings = replace(settings, num_epochs=1, num_train=len(rows))
    with tempfile.TemporaryDirectory() as folder:
        args = make_training_arguments(settings, folder)
        args.train_sampling_strategy = "sequential"
        args.set_logging(strategy="steps", steps=1)
        args.set_evaluate(strategy="no")
        args.set_save(strategy="no")
        args.load_best_model_at_end = False
        trainer = Trainer(
            model=model,
            args=args,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=rows,
            callbacks=[Clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], times


def load_keras_start(folder):
    """Return the Keras model with the weights of `save_start`, its head too, without dropout."""
    from safetensors.numpy import load_file

    from helpers.keras_road import build_classifier

    weights = load_file(folder / "model.safetensors")
    kernel, bias = weights["classifier.weight"].T, weights["classifier.bias"]
    classifier = build_classifier(str(folder), len(bias), seed=0, dropout=0.0)
    classifier.get_layer("classifier").set_weights([kernel, bias])
    return classifier


def train_keras(classifier, rows, tokenizer, settings):
    """Train one pass with `fit`; return the losses and the times of the steps."""
    from helpers.keras_road import keras, keras_batches, make_keras_optimizer

    losses, times = [], []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.reset_metrics()  # or Keras reports the mean of the epoch so far

        def on_train_batch_end(self, batch, logs=None):
            losses.append(float(logs["loss"]))
            times.append(perf_counter())

    train_dataloader = make_dataloader(rows, tokenizer, settings.batch_size)
    classifier.compile(
        optimizer=make_keras_optimizer(settings, len(train_dataloader)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    classifier.fit(keras_batches(train_dataloader), shuffle=False, verbose=0, callbacks=[Clock()])
    return losses, times


def main(arguments=None):
    """Measure one road in this process: the command that `measure_roads` calls."""
    parser = argparse.ArgumentParser(prog="python -m helpers.roads", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder in which `start` lies")
    parser.add_argument("num_steps", type=int)
    parser.add_argument("settings", type=json.loads, help="all settings, as JSON")
    parser.add_argument("road", choices=tuple(CODE))
    arguments = parser.parse_args(arguments)
    settings = Settings(**arguments.settings)
    rows, tokenizer = first_rows(settings, arguments.num_steps)
    first_batch = next(iter(make_dataloader(rows, tokenizer, settings.batch_size)))
    start = arguments.folder / "start"
    if arguments.road == "Keras":
        model, train = load_keras_start(start), train_keras
        from helpers.keras_road import keras_batches

        logits = model.predict(keras_batches([first_batch]), verbose=0)
    else:
        model = load_start(start)
        train = train_pytorch if arguments.road == "PyTorch" else train_trainer
        with torch.no_grad():
            logits = model.eval()(**first_batch).logits.numpy()
    losses, times = train(model, rows, tokenizer, settings)
    skipped = min(WARM_UP, len(times) - 1)
    samples = len(rows) - skipped * settings.batch_size
    figures = {
        "logits": logits.tolist(),
        "losses": losses,
        "samples_per_second": samples / (times[-1] - times[skipped - 1]),
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
