"""The road of the 🤗 Trainer. Chapter 06 teaches all of it but `trainer_model` and
`train_with_trainer`."""

import math

import evaluate
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from helpers.batches import to_model_inputs
from helpers.checkpoints import TrainerCheckpoints
from helpers.data import prepare_data
from helpers.metrics import metric_folder
from helpers.runs import MODEL_PARAMETERS, kept_folder, made_by, new_folder, run_folder
from helpers.sources import find_model
from helpers.training import load_model, weigh_classes


def compute_metrics(eval_prediction):
    """Return accuracy and macro-F1 of the `EvalPrediction` that `Trainer` hands over.

    Its predictions are class numbers, thanks to `keep_predictions`. Defined in chapter 06.
    """
    metric = evaluate.combine([metric_folder("accuracy"), metric_folder("macro_f1")])
    predictions, references = eval_prediction
    return metric.compute(predictions=predictions, references=references)


def keep_predictions(logits, labels):
    """Reduce the logits of a batch, shape (texts, classes), to class numbers, shape (texts,).

    Defined in chapter 06.
    """
    return logits.argmax(dim=-1)


def make_training_arguments(settings, output_dir):
    """Return the `TrainingArguments` that say what chapter 04 says in its loop.

    output_dir: folder for the checkpoints. Defined in chapter 06.
    """
    num_training_steps = settings.num_epochs * math.ceil(settings.num_train / settings.batch_size)
    return TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        optim="adamw_torch_fused",
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=int(settings.warmup_ratio * num_training_steps),
        max_grad_norm=settings.max_grad_norm,
        num_train_epochs=settings.num_epochs,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_nan_inf_filter=False,
        seed=settings.seed,
        use_cpu=settings.device == "cpu",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def trainer_model(settings):
    """Return a context: the folder of the model that chapter 06 trains, `run_dir/trainer`.

    Takes it as it is if it was made with the same settings, and else trains it.
    """
    return kept_folder(settings, "trainer", made_by(settings, MODEL_PARAMETERS), train_with_trainer)


def train_with_trainer(settings):
    """Take the steps of chapter 06, without a progress bar: a model in `run_dir/trainer`."""
    dataset = prepare_data(settings)
    rows = to_model_inputs(dataset)
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    class_label = dataset["train"].features["label"]
    model = load_model(settings.model_name, class_label, settings.attention_dropout, settings.seed)
    weigh_classes(model, rows["train"]["labels"][:], settings.class_weights)
    checkpoints = TrainerCheckpoints(settings)
    trainer = Trainer(
        model=model,
        args=make_training_arguments(settings, checkpoints.folder),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=keep_predictions,
        callbacks=[checkpoints],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.evaluate()  # as the chapter does: it uses up random numbers
    with checkpoints:
        trainer.train(resume_from_checkpoint=checkpoints.newest())
        stamp = made_by(settings, MODEL_PARAMETERS)
        with new_folder(run_folder(settings) / "trainer", stamp) as folder:
            trainer.save_model(folder)
