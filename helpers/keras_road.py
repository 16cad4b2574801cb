"""The road of Keras on TensorFlow. Chapter 07 teaches all of it but `keras_model` and
`train_with_keras`."""

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from helpers.batches import make_dataloader, to_model_inputs
from helpers.data import prepare_data
from helpers.runs import MODEL_PARAMETERS, kept_folder, made_by, new_folder, run_folder, write_json
from helpers.sources import check_convertible, find_model
from helpers.start_tensorflow import start_tensorflow
from helpers.training import balance_weights

start_tensorflow()

import keras  # noqa: E402
import keras_hub  # noqa: E402
import tensorflow as tf  # noqa: E402

KERAS_PACKAGES = ("tensorflow", "keras", "keras-hub", "datasets")


def keras_batches(dataloader):
    """Return the batches of a DataLoader as a `tf.data.Dataset` of (inputs, labels).

    Inputs: token_ids, segment_ids and padding_mask, int64 of shape (batch, longest text);
    labels: int64 of shape (batch,). Defined in chapter 07.
    """

    def batches():
        for batch in dataloader:
            token_ids = batch["input_ids"].numpy()
            segment_ids = batch.get("token_type_ids", np.zeros_like(token_ids))
            inputs = {"token_ids": token_ids, "segment_ids": segment_ids}
            yield inputs | {"padding_mask": batch["attention_mask"]}, batch["labels"]

    names = ("token_ids", "segment_ids", "padding_mask")
    inputs = {name: tf.TensorSpec((None, None), tf.int64) for name in names}
    signature = (inputs, tf.TensorSpec((None,), tf.int64))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(dataloader)))


def build_classifier(model_name, num_classes, seed, dropout=0.1):
    """Return the pretrained BERT with a new head that gives one logit for each class.

    The head is that of `BertForSequenceClassification`: dropout and one dense layer, on the
    pooled output at [CLS]. seed: draws its weights and, later, dropout. Defined in chapter 07.
    """
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.BertBackbone.from_preset(find_model(model_name), dropout=dropout)
    pooled = keras.layers.Dropout(dropout)(backbone.output["pooled_output"])
    initializer = keras.initializers.RandomNormal(stddev=0.02)
    head = keras.layers.Dense(num_classes, kernel_initializer=initializer, name="classifier")
    return keras.Model(backbone.input, head(pooled))


@keras.saving.register_keras_serializable("helpers")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Let the learning rate rise from 0 in the first steps, then fall to 0 at the last.

    The same as `get_scheduler(name="linear")` of chapter 03. Defined in chapter 07.
    """

    def __init__(self, learning_rate, num_warmup_steps, num_training_steps):
        self.learning_rate = learning_rate
        self.num_warmup_steps = num_warmup_steps
        self.num_training_steps = num_training_steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rise = step / self.num_warmup_steps if self.num_warmup_steps else 1.0
        steps_left = self.num_training_steps - step
        fall = steps_left / max(1, self.num_training_steps - self.num_warmup_steps)
        return self.learning_rate * keras.ops.maximum(0.0, keras.ops.minimum(rise, fall))

    def get_config(self):
        return dict(vars(self))


def make_keras_optimizer(settings, num_training_steps):
    """Return AdamW with the schedule, weight decay and clipping of chapters 03 and 04.

    Defined in chapter 07.
    """
    num_warmup_steps = int(settings.warmup_ratio * num_training_steps)
    optimizer = keras.optimizers.AdamW(
        LinearWarmup(settings.learning_rate, num_warmup_steps, num_training_steps),
        weight_decay=settings.weight_decay,
        epsilon=1e-8,
        global_clipnorm=settings.max_grad_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def keras_model(settings):
    """Return a context: the folder of the model that chapter 07 trains, `run_dir/keras`, with model.keras.

    Takes it as it is if it was made with the same settings, and else trains it.
    """
    stamp = made_by(settings, MODEL_PARAMETERS, KERAS_PACKAGES)
    return kept_folder(settings, "keras", stamp, train_with_keras)


def train_with_keras(settings):
    """Take the steps of chapter 07: a model in `run_dir/keras`."""
    check_convertible(settings.model_name)
    dataset = prepare_data(settings)
    rows = to_model_inputs(dataset)
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
    names = dataset["train"].features["label"].names
    classifier = build_classifier(settings.model_name, len(names), settings.seed)
    num_training_steps = settings.num_epochs * len(train_dataloader)
    classifier.compile(
        optimizer=make_keras_optimizer(settings, num_training_steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    class_weight = None
    if settings.class_weights == "balanced":
        weights = balance_weights(rows["train"]["labels"][:], len(names))
        class_weight = dict(enumerate(weights.tolist()))
    progress_bar = tqdm(range(num_training_steps))
    history = classifier.fit(
        keras_batches(train_dataloader),
        validation_data=keras_batches(validation_dataloader),
        epochs=settings.num_epochs,
        class_weight=class_weight,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda step, logs: progress_bar.update(1)
            ),
            keras.callbacks.EarlyStopping(patience=settings.num_epochs, restore_best_weights=True),
        ],
    )
    progress_bar.close()
    best_loss = min(history.history["val_loss"])
    assert best_loss < float("inf"), "the loss is not a number: try a smaller learning_rate"
    stamp = made_by(settings, MODEL_PARAMETERS, KERAS_PACKAGES)
    with new_folder(run_folder(settings) / "keras", stamp) as folder:
        keras.Model(classifier.input, classifier.output).save(folder / "model.keras")
        write_json(folder / "labels.json", dict(enumerate(names)))
