"""Accuracy: the share of predictions that equal their reference."""

from sklearn.metrics import accuracy_score

from suite.metrics import base


class Accuracy(base.ClassMetric):
    """`compute()` returns {"accuracy": float in 0..1}; needs at least one prediction."""

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}
