"""The ways to fine-tune that `make bench` compares, each written as its users would write it.

A recipe is a function (task, rows, batches, num_epochs, clock) that trains on `rows` and returns
the model. `batches` are the rows of each step, in order; None means the recipe's own order.
`clock`, a `Clock`, is called after each step.
"""

import tempfile
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from benchmarks.roads import fit_keras, fit_trainer, make_optimizer_and_schedule
from helpers.data import token_counts
from helpers.speed import (
    TokenBatchSampler,
    has_fast_bf16,
    put_all_tokens_back,
    read_first_token_only,
    switch_dropout_off,
    train_used_tokens_only,
    use_float32_attention,
)
from helpers.training import load_model, parameter_groups
from suite.resolve import find_model
from suite.settings import Settings


@dataclass
class Task:
    """What all recipes share: the model to start from, the tokenizer, the classes, the device."""

    model_name: str
    tokenizer: object
    class_label: object
    max_length: int
    device: torch.device
    seed: int
    max_tokens: int  # of a batch of ours; the others have about as many texts a step
    batch_size: int


def new_model(task):
    """Return the pretrained model as `from_pretrained` gives it, with a new head."""
    set_seed(task.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        find_model(task.model_name), num_labels=task.class_label.num_classes, dtype=torch.float32
    )
    return model.to(task.device)


def seed_recipe(task, rows, batches, num_epochs, clock):
    """The tutorial's own: every text padded to the maximum, batches of 8, default AdamW, 5e-5."""
    collator = DataCollatorWithPadding(
        task.tokenizer, padding="max_length", max_length=task.max_length
    )
    if batches is None:
        train_dataloader = DataLoader(rows, shuffle=True, batch_size=8, collate_fn=collator)
    else:
        train_dataloader = DataLoader(rows, batch_sampler=batches, collate_fn=collator)
    model = new_model(task)
    num_training_steps = num_epochs * len(train_dataloader)
    optimizer, lr_scheduler = make_optimizer_and_schedule(
        model.parameters(), 5e-5, num_training_steps
    )
    model.train()
    for _ in range(num_epochs):
        for batch in train_dataloader:
            batch = {k: v.to(task.device) for k, v in batch.items()}
            outputs = model(**batch)
            loss = outputs.loss
            loss.backward()

            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            clock()
    return model


def seed_recipe_text_by_text(task, rows, batches, num_epochs, clock):
    """The same steps with the same gradients, each the sum over its texts, one after the other.

    No text is padded, attention stays within the cache of the processor, and tokens that occur
    nowhere are left out, which takes half of the time or less. For accuracy alone; never timed.
    """
    loader = {"batch_sampler": batches} if batches else {"shuffle": True, "batch_size": 8}
    train_dataloader = DataLoader(rows, collate_fn=list, **loader)
    model = new_model(task)
    whole = train_used_tokens_only(model, rows["input_ids"])
    num_training_steps = num_epochs * len(train_dataloader)
    optimizer, lr_scheduler = make_optimizer_and_schedule(
        model.parameters(), 5e-5, num_training_steps
    )
    model.train()
    for _ in range(num_epochs):
        for batch in train_dataloader:
            for row in batch:
                text = {k: v[None].to(task.device) for k, v in row.items()}
                loss = model(**text).loss / len(batch)
                loss.backward()
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            clock()
    put_all_tokens_back(model, whole)
    return model


def train_with_trainer(task, model, rows, batches, clock, **arguments):
    """Train with `Trainer`, in the order of `batches` if given."""
    if batches is not None:
        rows = rows.select([row for batch in batches for row in batch])
        arguments |= {
            "train_sampling_strategy": "sequential",
            "per_device_train_batch_size": len(batches[0]),
        }
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=task.device.type == "cpu",
            seed=task.seed,
            **arguments,
        )
        fit_trainer(model, args, rows, task.tokenizer, clock)
    return model


def trainer_default(task, rows, batches, num_epochs, clock):
    """`Trainer` with its defaults: batches of 8, padded to the longest text, 5e-5."""
    return train_with_trainer(
        task, new_model(task), rows, batches, clock, num_train_epochs=num_epochs
    )


def trainer_tuned(task, rows, batches, num_epochs, clock):
    """`Trainer` with all of our recipe that its arguments and the model's config allow."""
    model = load_model(task.model_name, task.class_label, 0.0, task.seed)
    switch_dropout_off(model)
    bf16 = has_fast_bf16(task.device)
    if bf16 and task.device.type == "cpu":
        use_float32_attention(model)
    return train_with_trainer(
        task,
        model,
        rows,
        batches,
        clock,
        num_train_epochs=num_epochs,
        per_device_train_batch_size=task.batch_size,
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
        learning_rate=1e-4,
        weight_decay=0.01,
        warmup_steps=0.1,
        label_smoothing_factor=0.1,
        logging_strategy="no",
        bf16=bf16,
    )


def keras_road(task, rows, batches, num_epochs, clock):
    """Keras on TensorFlow as in chapter 09, with batches grouped by length."""
    from helpers.keras_road import build_classifier, keras

    classifier = build_classifier(task.model_name, task.class_label.num_classes, task.seed)
    collator = DataCollatorWithPadding(task.tokenizer)
    if batches is None:
        batches = grouped_batches(rows, task)
    train_dataloader = DataLoader(rows, batch_sampler=batches, collate_fn=collator)
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=clock)
    fit_keras(classifier, train_dataloader, num_epochs, Settings(), callback)
    return classifier


def ours(task, rows, batches, num_epochs, clock):
    """The recipe of chapters 10 and 14.

    Its head starts at zero, so the seed draws nothing but the order of the texts, and learns at ten
    times the rate of the other weights.
    """
    model = load_model(task.model_name, task.class_label, 0.0, task.seed)
    for weights in model.classifier.parameters():
        torch.nn.init.zeros_(weights)
    read_first_token_only(model)
    model.to(task.device)
    if task.device.type == "cpu":
        use_float32_attention(model)
    switch_dropout_off(model)
    whole = train_used_tokens_only(model, rows["input_ids"])
    if batches is None:
        batches = token_batches(rows, task)
    bf16 = has_fast_bf16(task.device)
    train_dataloader = DataLoader(
        rows,
        batch_sampler=batches,
        collate_fn=DataCollatorWithPadding(task.tokenizer),
        pin_memory=task.device.type == "cuda",
    )
    groups = parameter_groups(model.base_model, 0.01)
    groups.append({"params": model.classifier.parameters(), "lr": 1e-3, "weight_decay": 0.0})
    optimizer, lr_scheduler = make_optimizer_and_schedule(
        groups, 1e-4, num_epochs * len(train_dataloader), warmup_ratio=0.1, fused=True
    )
    texts_a_step = len(rows) / len(train_dataloader)
    model.train()
    for _ in range(num_epochs):
        for batch in train_dataloader:
            batch = {k: v.to(task.device, non_blocking=True) for k, v in batch.items()}
            labels = batch.pop("labels")
            with torch.autocast(task.device.type, torch.bfloat16, enabled=bf16):
                logits = model(**batch).logits
            losses = cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=0.1)
            loss = losses / texts_a_step  # a text counts the same in a batch of few or of many
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            clock()
    put_all_tokens_back(model, whole)
    return model


def random_batches(rows, task):
    """Return the batches of one epoch in random order, 8 texts each."""
    generator = torch.Generator().manual_seed(task.seed)
    order = torch.randperm(len(rows), generator=generator).tolist()
    return list(BatchSampler(order, 8, drop_last=False))


def grouped_batches(rows, task):
    """Return the batches of one epoch as the sampler of `Trainer` groups them by length."""
    generator = torch.Generator().manual_seed(task.seed)
    order = LengthGroupedSampler(
        task.batch_size, lengths=token_counts(rows).tolist(), generator=generator
    )
    return list(BatchSampler(order, task.batch_size, drop_last=False))


def token_batches(rows, task):
    """Return the sampler of our batches: of like length, and of as many tokens each."""
    generator = torch.Generator().manual_seed(task.seed)
    return TokenBatchSampler(token_counts(rows).tolist(), task.max_tokens, generator)


# name: (recipe, its batches of one epoch)
RECIPES = {
    "seed": (seed_recipe, random_batches),
    "trainer": (trainer_default, random_batches),
    "trainer_tuned": (trainer_tuned, grouped_batches),
    "keras": (keras_road, grouped_batches),
    "ours": (ours, token_batches),
}
