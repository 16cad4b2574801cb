"""Start TensorFlow without the notes that its C++ part writes past Python."""

import os
import sys
from contextlib import contextmanager
from importlib.util import find_spec

from suite.errors import UserError


class KerasMissing(UserError):
    """The packages of the extra `keras` are not installed."""


def start_tensorflow():
    """Import TensorFlow, Keras and KerasHub for the first time, with Keras on TensorFlow.

    Their imports write lines about processor and CUDA straight to file descriptor 2, whatever
    TF_CPP_MIN_LOG_LEVEL says; these are left out. Warnings and errors of Python still show.

    Takes the memory of a GPU as it needs it. Raises KerasMissing if one of the packages is not there.
    """
    check_installed()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_descriptor_2():
        import keras_hub  # noqa: F401
        import tensorflow

        for gpu in tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        tensorflow.zeros(1)  # the first operation looks for devices


def check_installed():
    """Raise KerasMissing if a package of the Keras road is not there."""
    packages = {"tensorflow": "tensorflow", "keras": "keras", "keras_hub": "keras-hub"}
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise KerasMissing(
            f"the Keras road needs {', '.join(missing)}: run `pip install -e '.[keras]'` in the project's folder"
        )


@contextmanager
def _silent_descriptor_2():
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
