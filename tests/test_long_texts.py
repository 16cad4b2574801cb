"""What chapter 15 teaches: head and tail, windows, and texts from windows; how all chapters read them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from lessons import make_here, run_here
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from helpers.batches import make_dataloader
from helpers.evaluation import predict, read_in_windows
from helpers.long_texts import head_and_tail, mean_of_windows, tokenize_ends, windows
from suite.check import check_dataset
from suite.predict import Classifier
from suite.runs import is_made_by, made_by, run_folder

LENGTHS = (0, 1, 5, 6, 7, 30, 61)


@pytest.fixture(scope="module")
def texts():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return [" ".join(words[n % 10] for n in range(length)) for length in LENGTHS]


@pytest.mark.parametrize("max_length", [4, 8, 9])
@pytest.mark.parametrize("share", ["head", "half", "tail", "too much", "none"])
def test_head_and_tail_keep_the_ends_and_the_limit(texts, tokenizer, max_length, share):
    heads = {"head": max_length - 1, "half": max_length // 2, "tail": 1, "too much": 99, "none": 0}
    head = min(max(heads[share], 1), max_length - 1)
    for ids in tokenizer(texts)["input_ids"]:
        kept = head_and_tail(ids, max_length, heads[share])
        assert len(kept) == min(max_length, len(ids))
        assert (kept[0], kept[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        if len(ids) > max_length:
            assert kept[:head] == ids[:head]
            assert kept[head:] == ids[head - max_length :]
        else:
            assert kept == ids


def test_the_head_is_what_the_tokenizer_cuts(texts, tokenizer):
    cut = tokenizer(texts, truncation=True, max_length=8)["input_ids"]
    assert [head_and_tail(ids, 8, 7) for ids in tokenizer(texts)["input_ids"]] == cut


@pytest.mark.parametrize(("max_length", "overlap"), [(4, 1), (8, 2), (8, 0), (20, 5)])
def test_windows_cover_every_token_of_a_text_and_no_other(texts, tokenizer, max_length, overlap):
    token_lists, text_of_window = windows(texts, tokenizer, max_length, overlap)
    assert len(token_lists) == len(text_of_window)
    assert sorted(set(text_of_window)) == list(range(len(texts)))
    for number, ids in enumerate(tokenizer(texts)["input_ids"]):
        own = [token_lists[n] for n in np.flatnonzero(text_of_window == number)]
        assert all(len(window) <= max_length for window in own)
        assert all(window[0] == ids[0] and window[-1] == ids[-1] for window in own)
        inside = [window[1:-1] for window in own]
        joined = inside[0] + [token for window in inside[1:] for token in window[overlap:]]
        assert joined == ids[1:-1]
        for before, after in zip(inside, inside[1:], strict=False):
            assert before[len(before) - overlap :] == after[:overlap]


def test_a_short_text_is_the_same_in_every_way(texts, tokenizer):
    whole = tokenizer(texts)["input_ids"]
    assert [head_and_tail(ids, 64, 1) for ids in whole] == whole
    token_lists, text_of_window = windows(texts, tokenizer, 64, 16)
    assert token_lists == whole and text_of_window.tolist() == list(range(len(texts)))
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), len(texts))
    means = mean_of_windows(probabilities, text_of_window, len(texts))
    assert np.array_equal(means, probabilities)


def test_means_are_those_of_each_text_whatever_the_order_of_the_windows():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9], [0.4, 0.6]])
    of_texts = np.array([[0.5, 0.5], [0.2, 0.8], [0.4666667, 0.5333333]])
    text_of_window = np.array([2, 1, 0, 2, 2])
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
        means = mean_of_windows(probabilities[order], text_of_window[order], 3)
        assert means.shape == (3, 2)
        assert np.allclose(means, of_texts)


def test_a_model_reads_a_long_text_in_windows(texts, tokenizer, tiny_model):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3).eval()
    token_lists, text_of_window = windows(texts, tokenizer, 16, 4)
    batch = tokenizer.pad({"input_ids": token_lists}, return_tensors="pt")
    with torch.inference_mode():
        probabilities = model(**batch).logits.softmax(dim=-1).numpy()
    means = mean_of_windows(probabilities, text_of_window, len(texts))
    assert means.shape == (len(texts), 3) and len(probabilities) > len(texts)
    assert np.allclose(means.sum(axis=1), 1)
    long = len(texts) - 1
    assert np.allclose(means[long], probabilities[text_of_window == long].mean(axis=0))
    rows = Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    rows = read_in_windows(model, rows, tokenizer, 16)
    for batch_size in (1, 3, len(texts)):
        found = predict(model, make_dataloader(rows, tokenizer, batch_size), model.device)
        assert np.allclose(found, means, atol=1e-5)
    batch = next(iter(make_dataloader(rows, tokenizer, len(texts))))
    assert model(**batch).loss.item() == pytest.approx(-np.log(means[:, 0]).mean(), abs=1e-4)


def test_the_ends_are_half_and_half_in_every_input(texts, tokenizer):
    for max_length, head in ((8, 4), (9, 4), (4, 2)):
        whole = tokenizer(texts)
        for name, lists in tokenize_ends({"text": texts}, tokenizer, max_length).items():
            for kept, every in zip(lists, whole[name], strict=True):
                ends = every[:head] + every[head - max_length :]
                assert kept == (ends if len(every) > max_length else every)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cut", "head_tail", "windows"])
def test_a_folder_answers_as_the_chapters_do_with_the_way_that_it_was_trained_for(
    way, smoke, tokenizer, monkeypatch
):
    make_here(monkeypatch)
    settings = replace(smoke, max_length=16, long_texts=way, num_epochs=1)
    names = run_here("05", settings, until="judge-predictions")
    folder, texts = run_folder(settings) / "model", names["test_rows"]["text"][:]
    assert json.loads((folder / "config.json").read_text())["long_texts"] == way
    found = Classifier(folder).probabilities(texts, bar := tqdm(total=len(texts)))
    assert bar.n == len(texts) == len(found)
    assert found == pytest.approx(names["probabilities"], abs=1e-5)
    heads = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert (names["test_rows"]["input_ids"][:] == heads) == (way != "head_tail")
    lengths = [len(ids) for ids in names["rows"]["test"]["input_ids"]]
    assert (max(lengths) > 16) == (way == "windows")
    other = replace(settings, long_texts="head_tail" if way == "cut" else "cut")
    for product in ("data", "model"):
        assert is_made_by(folder.with_name(product), made_by(settings, product))
        assert not is_made_by(folder.with_name(product), made_by(other, product))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("cut", "are cut\n"),
        ("head_tail", "are cut in the middle\n"),
        ("windows", "are cut in training and read in windows afterwards\n"),
    ],
)
def test_the_check_says_what_becomes_of_long_texts(way, said, smoke):
    report = str(check_dataset(replace(smoke, max_length=16, long_texts=way)))
    assert f" longer than max_length, 16 tokens, and {said}" in report + "\n"
