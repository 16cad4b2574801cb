"""Optimizer, schedule and training loop.

Chapters 03 and 04 teach all of it but `pick_device` and `get_trained_model`.
"""

import evaluate
import torch
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
from helpers.data import prepare_data
from helpers.metrics import metric_folder
from helpers.parameters import ParameterError
from helpers.runs import MODEL_PARAMETERS, is_made_by, made_by, new_folder, run_folder
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
    model, train_dataloader, optimizer, lr_scheduler, max_grad_norm, device, progress_bar
):
    """Train on all batches; return (loss, learning rate) of each step. Defined in chapter 04."""
    steps = []
    model.train()
    for batch in train_dataloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        steps.append((loss.item(), lr_scheduler.get_last_lr()[0]))
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        progress_bar.update(1)
    return steps


def get_trained_model(settings):
    """Return the folder of the model that chapter 04 trains: `run_dir/model`.

    Takes it as it is if chapter 04 left it there with the same settings, and else takes
    the steps of chapter 04, with its progress bar. It holds the weights of the epoch with the lowest
    validation loss, the config with the class names, and the tokenizer.
    """
    folder, stamp = run_folder(settings) / "model", made_by(settings, MODEL_PARAMETERS)
    if is_made_by(folder, stamp):
        return folder
    print(f"No model of these parameters in {settings.run_dir}: training one.")
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
    progress_bar = tqdm(range(num_training_steps))
    best_loss = float("inf")
    with new_folder(folder, stamp) as building:
        for _ in range(settings.num_epochs):
            train_one_epoch(
                model,
                train_dataloader,
                optimizer,
                lr_scheduler,
                settings.max_grad_norm,
                device,
                progress_bar,
            )
            validation_loss, _ = evaluate_model(model, validation_dataloader, device)
            if validation_loss < best_loss:
                best_loss = validation_loss
                model.save_pretrained(building)
        assert best_loss < float("inf"), "the loss is not a number: try a smaller learning_rate"
        tokenizer.save_pretrained(building)
    progress_bar.close()
    return folder
