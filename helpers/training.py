"""Optimizer, schedule and training loop.

Chapters 03, 04 and 10 teach all of it but `pick_device`, `trained_model` and `train_model`.
"""

import evaluate
import torch
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_scheduler,
    set_seed,
)

from helpers.batches import make_dataloader, to_model_inputs
from helpers.checkpoints import Checkpoints
from helpers.data import prepare_data
from helpers.metrics import metric_folder
from helpers.parameters import ParameterError
from helpers.runs import MODEL_PARAMETERS, kept_folder, made_by, new_folder, run_folder
from helpers.sources import find_model


def pick_device(device):
    """Return the torch.device of the parameter `device`; "auto" takes a GPU if there is one.

    Raises ParameterError if the device is not there.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return torch.device(next((name for name in ("cuda", "mps") if available[name]), "cpu"))
    kind, _, index = device.partition(":")
    if not available[kind] or int(index or 0) >= max(1, torch.cuda.device_count()):
        there = ", ".join(name for name in available if available[name])
        raise ParameterError(
            f"device {device!r} is not there; torch finds {there}; set device to 'auto'"
        )
    return torch.device(device)


def load_model(model_name, class_label, attention_dropout, seed):
    """Return the pretrained model with a new head, one output for each class, in float32.

    class_label: the `ClassLabel` feature of the data; its names go into the config
    attention_dropout: goes to whichever of the two names the architecture has
    seed: draws the head's weights, so it is set right before. Defined in chapter 03.
    """
    config = AutoConfig.from_pretrained(
        find_model(model_name),
        num_labels=class_label.num_classes,
        id2label=dict(enumerate(class_label.names)),
        label2id={name: number for number, name in enumerate(class_label.names)},
    )
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, attention_dropout)
    set_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(
        find_model(model_name), config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )


def balance_weights(labels, num_classes):
    """Return a weight for each class, float32 of shape (classes,): the rarer, the higher.

    labels: class numbers of the training rows, shape (rows,)

    It is rows / (classes x rows of the class), so the mean over the rows is 1.
    Defined in chapter 10.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes)
    return len(labels) / (num_classes * counts.clamp(min=1)).float()


def weigh_classes(model, labels, class_weights):
    """Weigh the losses of the rows by `balance_weights`, if `class_weights` is "balanced".

    labels: class numbers of the training rows, shape (rows,)

    The model's own loss is replaced after each forward pass, on every road that asks it for one.
    Defined in chapter 10.
    """
    if class_weights == "none":
        return
    weights = balance_weights(labels, model.num_labels)

    def weigh(model, args, inputs, outputs):
        if inputs.get("labels") is not None:
            losses = cross_entropy(outputs.logits, inputs["labels"], reduction="none")
            outputs.loss = (weights.to(losses.device)[inputs["labels"]] * losses).mean()

    model.register_forward_hook(weigh, with_kwargs=True)


def parameter_groups(model, weight_decay):
    """Split the parameters in two groups: matrices decay, biases and norms (one axis) do not.

    Defined in chapter 03.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def evaluate_model(model, dataloader, device):
    """Return the mean loss and the accuracy. Defined in chapter 04."""
    metric = evaluate.load(metric_folder("accuracy"))
    losses = 0.0
    model.eval()
    for batch in dataloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        with torch.no_grad():
            outputs = model(**batch)
        losses += outputs.loss.item() * len(batch["labels"])
        predictions = torch.argmax(outputs.logits, dim=-1)
        metric.add_batch(predictions=predictions, references=batch["labels"])
    return losses / len(dataloader.dataset), metric.compute()["accuracy"]


def train_one_epoch(
    model, batches, optimizer, lr_scheduler, max_grad_norm, device, progress_bar, steps
):
    """Train on all batches; append (loss, learning rate) of each step to `steps`.

    Raises RuntimeError if a gradient is not finite. Defined in chapter 04.
    """
    model.train()
    for batch in batches:
        batch = {k: v.to(device) for k, v in batch.items()}
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm, error_if_nonfinite=True)
        steps.append((loss.item(), lr_scheduler.get_last_lr()[0]))
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        progress_bar.update(1)


def trained_model(settings):
    """Return a context: the folder of the model that chapter 04 trains, `run_dir/model`.

    Takes it as it is if it was made with the same settings, and else trains it. While the block runs,
    no other process puts another model there. The folder holds the weights of the epoch with the
    lowest validation loss, the config with the class names, and the tokenizer.
    """
    return kept_folder(settings, "model", made_by(settings, MODEL_PARAMETERS), train_model)


def train_model(settings):
    """Take the steps of chapter 04, with its progress bar: a model in `run_dir/model`."""
    dataset = prepare_data(settings)
    rows = to_model_inputs(dataset)
    device = pick_device(settings.device)
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    train_dataloader = make_dataloader(
        rows["train"],
        tokenizer,
        settings.batch_size,
        shuffle=True,
        group_by_length=settings.group_by_length,
        seed=settings.seed,
    )
    validation_dataloader = make_dataloader(rows["validation"], tokenizer, settings.batch_size)
    model = load_model(
        settings.model_name,
        dataset["train"].features["label"],
        settings.attention_dropout,
        settings.seed,
    )
    weigh_classes(model, rows["train"]["labels"][:], settings.class_weights)
    model.to(device)
    optimizer = AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True
    )
    num_training_steps = settings.num_epochs * len(train_dataloader)
    lr_scheduler = get_scheduler(
        name="linear",
        optimizer=optimizer,
        num_warmup_steps=int(settings.warmup_ratio * num_training_steps),
        num_training_steps=num_training_steps,
    )
    parts = (model, optimizer, lr_scheduler, train_dataloader)
    with Checkpoints(settings, *parts) as checkpoints:
        progress_bar = tqdm(range(num_training_steps), initial=checkpoints.step)
        while len(checkpoints.epochs) < settings.num_epochs:
            train_one_epoch(
                model,
                checkpoints.batches(),
                optimizer,
                lr_scheduler,
                settings.max_grad_norm,
                device,
                progress_bar,
                checkpoints.steps,
            )
            checkpoints.end_epoch(*evaluate_model(model, validation_dataloader, device))
        progress_bar.close()
        checkpoints.load_best()
        stamp = made_by(settings, MODEL_PARAMETERS)
        with new_folder(run_folder(settings) / "model", stamp) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
