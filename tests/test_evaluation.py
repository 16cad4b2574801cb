"""Metrics against scikit-learn, calibration against a case worked by hand."""

import json

import evaluate
import numpy as np
import pytest
import torch
from lessons import rows_of
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification

from helpers.batches import make_dataloader, to_model_inputs
from helpers.evaluation import expected_calibration_error, predict, predict_texts, tfidf_baseline
from suite.metrics import metric_folder
from suite.resolve import find_model
from suite.runs import EXPECTED


@pytest.mark.parametrize("num_classes", [2, 5, 20])
def test_metrics_equal_those_of_scikit_learn(num_classes):
    random = np.random.default_rng(num_classes)
    references, predictions = random.integers(0, num_classes, (2, 200))
    metric = evaluate.combine([metric_folder("accuracy"), metric_folder("macro_f1")])
    for start in range(0, 200, 64):
        part = slice(start, start + 64)
        metric.add_batch(
            predictions=torch.tensor(predictions[part]), references=torch.tensor(references[part])
        )
    results = metric.compute()
    assert results["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    assert results["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))


def test_macro_f1_of_a_class_that_is_never_predicted_is_zero():
    metric = evaluate.load(metric_folder("macro_f1"))
    results = metric.compute(predictions=[0, 0, 0, 0], references=[0, 0, 0, 1])
    assert results["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)


def test_calibration_error_of_a_case_worked_by_hand():
    """Two bins: (0.65, 0.61; one of two right) and (0.9, 0.92, 0.98; all right).

    |1/2 - 0.63| * 2/5 + |1 - 2.8/3| * 3/5 = 0.052 + 0.04
    """
    confidences = np.array([0.65, 0.61, 0.9, 0.92, 0.98])
    correct = np.array([True, False, True, True, True])
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.092)


def test_calibration_error_ends():
    assert expected_calibration_error(np.ones(4), np.ones(4, dtype=bool)) == 0
    assert expected_calibration_error(np.ones(4), np.zeros(4, dtype=bool)) == 1


def test_predictions_do_not_depend_on_the_batch(smoke, tokenizer):
    dataset = rows_of(smoke)
    model = AutoModelForSequenceClassification.from_pretrained(
        find_model(smoke.model_name), dtype=torch.float32
    )
    rows = to_model_inputs(dataset)["eval"]
    device = torch.device("cpu")
    together = predict(model, make_dataloader(rows, tokenizer, 64), device)
    alone = predict(model, make_dataloader(rows, tokenizer, 1), device)
    texts = predict_texts(list(dataset["eval"]["text"]), model, tokenizer, smoke.max_length)
    assert together.shape == (smoke.num_eval, 2)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, texts, atol=1e-5)


def test_the_word_baseline_learns_words():
    texts = ["good film", "good story", "bad film", "bad story"] * 5
    baseline = tfidf_baseline(texts, [1, 1, 0, 0] * 5)
    assert baseline.predict(["a good day", "a bad day"]).tolist() == [1, 0]


def test_the_margin_over_the_word_baseline_was_measured_over_at_least_five_seeds():
    """Chapter 05 fails if the gain of the default run leaves this interval; here it has to lie above zero."""
    measured = json.loads(EXPECTED.read_text(encoding="utf-8"))
    gain = measured["figures"]["gain_over_tfidf"]
    assert len(set(measured["seeds"])) >= 5
    assert len(gain["values"]) == len(measured["seeds"])
    assert min(gain["values"]) > 0
    assert gain["low"] > 0
