#!/bin/sh
# keras 3.15.1 on tensorflow 2.21.0.
# `fit` makes the optimizer's variables within the first training step. TensorFlow cannot keep a graph that
# makes variables, so it turns the whole step into a graph a second time. For a BERT of 6 layers that took
# half of the wait before the first step. `model.optimizer.build(model.trainable_variables)` after `compile`
# makes them before, and the step is traced once; the losses are equal.
# Seen: "traces without build: 2, with build: 1, equal losses: True".
# Exits with 1 if that changes.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PYTHON'
import keras
import numpy as np


class Counting(keras.Model):
    traces = 0

    def train_step(self, data):
        self.traces += 1  # Python runs only when the step becomes a graph
        return super().train_step(data)


def fit(build):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = Counting(inputs, keras.layers.Dense(1)(keras.layers.Dense(8, "relu")(inputs)))
    model.compile(keras.optimizers.AdamW(), "mse", jit_compile=False)
    if build:
        model.optimizer.build(model.trainable_variables)
    rows = np.arange(64, dtype="float32").reshape(16, 4) / 64
    losses = model.fit(rows, rows[:, :1], epochs=3, batch_size=4, shuffle=False, verbose=0).history["loss"]
    return model.traces, losses


(without, first), (built, second) = fit(False), fit(True)
print(f"traces without build: {without}, with build: {built}, equal losses: {first == second}")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | tee "$folder/said"
grep -q "traces without build: 2, with build: 1, equal losses: True" "$folder/said"
