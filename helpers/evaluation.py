"""Predictions, baselines, calibration and thresholds. Chapters 05 and 10 teach every function."""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline


def predict(model, dataloader, device):
    """Return the class probabilities, float32 of shape (rows, classes). Defined in chapter 05."""
    probabilities = []
    model.eval()
    for batch in dataloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        with torch.no_grad():
            outputs = model(**batch)
        probabilities.append(outputs.logits.softmax(dim=-1).cpu())
    return torch.cat(probabilities).numpy()


def tfidf_baseline(train_texts, train_labels):
    """Return a fitted TF-IDF with logistic regression. Defined in chapter 05."""
    baseline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    return baseline.fit(train_texts, train_labels)


def expected_calibration_error(confidences, correct, num_bins=10):
    """Return the gap between confidence and accuracy: mean over bins, weighted by their rows.

    confidences: probability of the predicted class, in 0..1, shape (rows,)
    correct: whether the prediction is right, shape (rows,)
    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3. Defined in chapter 05.
    """
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    gap = 0.0
    for number in range(num_bins):
        inside = bins == number
        if inside.any():
            gap += inside.mean() * abs(correct[inside].mean() - confidences[inside].mean())
    return float(gap)


def predict_texts(texts, model, tokenizer, max_length):
    """Return the class probabilities of texts, shape (texts, classes). Defined in chapter 05."""
    inputs = tokenizer(
        texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
    )
    model.eval()
    with torch.no_grad():
        logits = model(**inputs.to(model.device)).logits
    return logits.softmax(dim=-1).cpu().numpy()


def choose_thresholds(probabilities, truth):
    """Return for each label the threshold that gives the highest F1, shape (labels,).

    probabilities, truth: shape (rows, labels), of validation rows
    A label that no row has keeps 0.5. Defined in chapter 10.
    """
    thresholds = np.full(truth.shape[1], 0.5)
    for label in np.flatnonzero(np.any(truth, axis=0)):
        column = probabilities[:, label]
        scores = [f1_score(truth[:, label], column >= value) for value in column]
        thresholds[label] = column[np.argmax(scores)]
    return thresholds
