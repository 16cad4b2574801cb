"""Macro-F1: the F1 score of each class, averaged with the same weight for every class."""

import datasets
import evaluate
from sklearn.metrics import f1_score


class MacroF1(evaluate.Metric):
    """`compute()` returns {"macro_f1": float in 0..1}; a class that is never predicted counts as 0."""

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions, references: class numbers, one a row",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0.0))
        }
