"""Macro-F1: the F1 score of each class, averaged with the same weight for every class."""

from sklearn.metrics import f1_score

from suite.metrics import base


class MacroF1(base.ClassMetric):
    """`compute()` returns {"macro_f1": float in 0..1}; a class that is never predicted counts as 0."""

    def _compute(self, predictions, references):
        score = f1_score(references, predictions, average="macro", zero_division=0.0)
        return {"macro_f1": float(score)}
