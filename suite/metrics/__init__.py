"""Metric modules for `evaluate.load`, carried along because the library's own are fetched from the network."""

from pathlib import Path


def metric_folder(name):
    """Return the folder of a metric ("accuracy" or "macro_f1") for `evaluate.load(metric_folder(name))`."""
    return str(Path(__file__).parent / name)
