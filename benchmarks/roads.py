"""The roads side by side: the same start, the same batches, each road in a process of its own.

Dropout is off, and all have the GELU that KerasHub has, so nothing but the road can differ.
Chapter 08 shows what `measure_roads` returns, chapter 09 what `get_roads` does; tests/test_roads.py
holds the figures to their bounds.
"""

import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import torch
from datasets import load_from_disk
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_scheduler,
)

from benchmarks.child import run_child
from helpers.batches import make_dataloader, to_model_inputs
from helpers.speed import switch_dropout_off
from helpers.training import (
    load_model,
    parameter_groups,
    pick_device,
    train_one_epoch,
)
from suite.products import product
from suite.resolve import find_model
from suite.runs import locked, made_by, peak_memory_mib, read_metrics, run_folder, write_json
from suite.settings import Settings
from suite.start_tensorflow import check_installed

# Each road and the product of the chapter that takes it.
ROADS = {"PyTorch": "model", "Trainer": "trainer", "Keras": "keras"}
# What chapter 08 measured, chapter 09 need not measure again.
KEPT = ("PyTorch", "Trainer")
ACCURACIES = Path(__file__).with_name("results") / "accuracies.json"
# Enough for a mean: one run's accuracy moves by a point or two with the seed.
SEEDS = tuple(range(12))
# Steps that are left out of the speed: the first ones build graphs and warm caches up.
WARM_UP = 5


def measure_roads(settings, roads, num_steps=20):
    """Train `num_steps` steps on each road; return {road: figures}.

    roads: some of `ROADS`
    figures: `logits` of the first batch before training, shape (batch, classes); `losses` of the
    steps; `samples_per_second` without the first 5 steps; `peak_memory_mib` of the road's process

    Raises KerasMissing if "Keras" is asked for and not installed, RuntimeError with the last
    lines of a road's process if that fails.
    """
    if "Keras" in roads:
        check_installed()
    with tempfile.TemporaryDirectory() as folder:
        save_start(settings, folder)
        measured = {}
        for road in roads:  # one at a time: speed and memory are to be its own
            arguments = road, folder, num_steps, asdict(settings)
            measured[road] = run_child("benchmarks.roads:measure_road", *arguments)
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
    stamp = {**made_by(settings, "trainer"), "num_steps": num_steps}
    return run_folder(settings) / "roads.json", stamp


def largest_difference(measured, figure="losses"):
    """Return how far apart the roads lie at most in one figure of `measure_roads`."""
    values = torch.tensor([figures[figure] for figures in measured.values()])
    return (values.max(dim=0).values - values.min(dim=0).values).max().item()


def tokenized_rows(settings):
    """Return the rows `train`, `validation` and `eval` that chapter 01 makes, as a DatasetDict."""
    with product("data", settings) as folder:
        return load_from_disk(folder)


def accuracy_of(road, settings):
    """Return the accuracy on the test rows of the model that the road's chapter trains.

    Takes the model from `run_dir`, or has it trained, with the chapter's own settings: dropout is on.
    """
    rows = to_model_inputs(tokenized_rows(settings))["test"]
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    dataloader = make_dataloader(rows, tokenizer, settings.batch_size)
    with product(ROADS[road], settings) as folder:
        if road != "Keras":
            from helpers.evaluation import evaluate_model  # heavy, and no road needs it

            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
            return evaluate_model(model, dataloader, model.device)[1]
        from helpers.keras_road import keras, keras_batches

        classifier = keras.models.load_model(folder / "model.keras")
    predictions = classifier.predict(keras_batches(dataloader), verbose=0).argmax(axis=-1)
    return (predictions == rows.with_format("numpy")["labels"][:]).mean().item()


def print_roads(measured, accuracies):
    """Print the table of the roads: speed, memory, and accuracy on the test rows."""
    print(f"{'road':<10}{'samples/s':>12}{'peak MiB':>12}{'accuracy':>12}")
    for road, figures in measured.items():
        speed, memory = figures["samples_per_second"], figures["peak_memory_mib"]
        columns = (f"≈ {speed:.1f}", f"≈ {memory:.0f}", f"≈ {accuracies[road]:.3f}")
        print(f"{road:<10}" + "".join(f"{text:>12}" for text in columns))


def save_start(settings, folder):
    """Write the model that every road starts from, with its new head, to `folder`."""
    class_label = tokenized_rows(settings)["train"].features["label"]
    load_model(settings.model_name, class_label, 0.0, settings.seed).save_pretrained(folder)


def load_start(folder):
    """Return the model of `save_start` without dropout and with the GELU of KerasHub."""
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "hidden_act", None) == "gelu":
        config.hidden_act = "gelu_pytorch_tanh"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32
    )
    switch_dropout_off(model)
    return model


def first_rows(settings, num_steps):
    """Return the rows of the first training batches of chapter 04, in their order, and the tokenizer."""
    rows = to_model_inputs(tokenized_rows(settings))["train"]
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    dataloader = make_dataloader(
        rows,
        tokenizer,
        settings.batch_size,
        shuffle=True,
        group_by_length=settings.group_by_length,
        seed=settings.seed,
    )
    order = list(dataloader.sampler)
    return rows.select(order[: num_steps * settings.batch_size]), tokenizer


class Clock:
    """Keeps the times at which steps end, in `times`.

    A loop calls it, or its `update` in place of that of a progress bar; so does the `on_step_end`
    of a TrainerCallback and the `on_train_batch_end` of a Keras callback.
    """

    def __init__(self):
        self.times = []

    def __call__(self, *args, **kwargs):
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.times.append(perf_counter())

    update = __call__


def make_optimizer_and_schedule(
    parameters, learning_rate, num_training_steps, warmup_ratio=0.0, fused=None
):
    """Return AdamW and a learning rate that rises for a share of the steps and then falls to 0."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, fused=fused)
    lr_scheduler = get_scheduler(
        name="linear",
        optimizer=optimizer,
        num_warmup_steps=int(warmup_ratio * num_training_steps),
        num_training_steps=num_training_steps,
    )
    return optimizer, lr_scheduler


def train_pytorch(model, rows, tokenizer, settings):
    """Train one pass with the loop of chapter 04; return the losses and the times of the steps."""
    device = pick_device(settings.device)
    model.to(device)
    dataloader = make_dataloader(rows, tokenizer, settings.batch_size)
    optimizer, lr_scheduler = make_optimizer_and_schedule(
        parameter_groups(model, settings.weight_decay),
        settings.learning_rate,
        len(dataloader),
        settings.warmup_ratio,
        fused=True,
    )
    clock, steps = Clock(), []
    train_one_epoch(model, dataloader, optimizer, lr_scheduler, settings, device, clock, steps)
    return [loss for loss, _ in steps], clock.times


def fit_trainer(model, args, rows, tokenizer, clock):
    """Train with `Trainer`, without its progress bar; return what it logged."""
    from transformers import PrinterCallback, Trainer, TrainerCallback

    callback = TrainerCallback()
    callback.on_step_end = clock
    trainer = Trainer(
        model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[callback]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history


def train_trainer(model, rows, tokenizer, settings):
    """Train one pass with `Trainer`; return the losses and the times of the steps."""
    from helpers.trainer_road import make_training_arguments

    settings = replace(settings, num_epochs=1, num_train=len(rows))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = make_training_arguments(settings, folder)
        args.train_sampling_strategy = "sequential"
        args.set_logging(strategy="steps", steps=1)
        args.set_evaluate(strategy="no")
        args.set_save(strategy="no")
        args.load_best_model_at_end = False
        history = fit_trainer(model, args, rows, tokenizer, clock)
    return [log["loss"] for log in history if "loss" in log], clock.times


def load_keras_start(folder):
    """Return the Keras model with the weights of `save_start`, its head too, without dropout."""
    from safetensors.numpy import load_file

    from helpers.keras_road import build_classifier

    weights = load_file(Path(folder, "model.safetensors"))
    kernel, bias = weights["classifier.weight"].T, weights["classifier.bias"]
    classifier = build_classifier(str(folder), len(bias), seed=0, dropout=0.0)
    classifier.get_layer("classifier").set_weights([kernel, bias])
    return classifier


def fit_keras(classifier, dataloader, num_epochs, settings, *callbacks):
    """Train a Keras classifier with the optimizer and the loss of chapter 09."""
    from helpers.keras_road import keras, keras_batches, make_keras_optimizer

    classifier.compile(
        optimizer=make_keras_optimizer(settings, num_epochs * len(dataloader)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    classifier.optimizer.build(classifier.trainable_variables)  # as chapter 09 does: one trace less
    classifier.fit(
        keras_batches(dataloader), epochs=num_epochs, shuffle=False, verbose=0, callbacks=callbacks
    )


def train_keras(classifier, rows, tokenizer, settings):
    """Train one pass with `fit`; return the losses and the times of the steps."""
    from helpers.keras_road import keras

    clock, losses = Clock(), []
    keep_losses = keras.callbacks.LambdaCallback(
        # Or Keras reports the mean of the epoch so far.
        on_train_batch_begin=lambda batch, logs: classifier.reset_metrics(),
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"])),
    )
    keep_times = keras.callbacks.LambdaCallback(on_train_batch_end=clock)
    dataloader = make_dataloader(rows, tokenizer, settings.batch_size)
    fit_keras(classifier, dataloader, 1, settings, keep_losses, keep_times)
    return losses, clock.times


def measure_road(road, start, num_steps, settings):
    """Return the figures of one road, measured in this process; `measure_roads` says what they are.

    start: the folder that `save_start` wrote; settings: as a dictionary
    """
    settings = replace(Settings(**settings), accumulation_steps=1)
    rows, tokenizer = first_rows(settings, num_steps)
    first_batch = next(iter(make_dataloader(rows, tokenizer, settings.batch_size)))
    if road == "Keras":
        model, train = load_keras_start(start), train_keras
        from helpers.keras_road import keras_inputs

        logits = model(keras_inputs(first_batch)).numpy()
    else:
        model = load_start(start)
        train = train_pytorch if road == "PyTorch" else train_trainer
        with torch.no_grad():
            logits = model.eval()(**first_batch).logits.numpy()
    begin = perf_counter()
    losses, times = train(model, rows, tokenizer, settings)
    skipped = min(WARM_UP, len(times) - 1)
    samples = len(rows) - skipped * settings.batch_size
    return {
        "logits": logits.tolist(),
        "losses": losses,
        "samples_per_second": samples / (times[-1] - [begin, *times][skipped]),
        "peak_memory_mib": peak_memory_mib(),
    }


def measure_accuracies(seeds):
    """Train on every road with every seed, and write the accuracies on the test rows.

    A seed that was measured before is not trained again while its models are there.
    """
    accuracies = {road: [] for road in ROADS}
    for seed in seeds:
        settings = Settings(seed=seed, run_dir=f"runs/ranges/seed-{seed}")
        for road, values in accuracies.items():
            values.append(round(accuracy_of(road, settings), 4))
        print(seed, {road: values[-1] for road, values in accuracies.items()}, flush=True)
    means = {road: round(statistics.mean(values), 4) for road, values in accuracies.items()}
    note = "measured by `make accuracies`: accuracy on the test rows, default settings but the seed"
    write_json(ACCURACIES, {"note": note, "seeds": list(seeds), "means": means, **accuracies})


if __name__ == "__main__":
    measure_accuracies(SEEDS)
