"""What chapter 12 teaches: ONNX and int8 give the answers of torch, on their own and on the Hub."""

import json
import os
import sys

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from hub_stand_in import HubStandIn
from lessons import run_python
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from benchmarks import ship
from conftest import ROOT, SMOKE
from helpers.serving import OnnxClassifier
from helpers.shipping import export_onnx, open_session, quantize_blocks, run_session

pytestmark = pytest.mark.slow

TEXTS = ["A joy.", "", "word " * 300, "Dull, and far too long.", "😀 中文 عمل", "[SEP] naïve"]
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
SIZES |= {"intermediate_size": 128, "max_position_embeddings": 130, "pad_token_id": 0}
SIZES |= {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2, "initializer_range": 0.2}
SIZES |= {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 130}


def make_model(kind, tokenizer):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SIZES)
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch_of(texts, tokenizer):
    return tokenizer(texts, truncation=True, max_length=120, padding=True, return_tensors="np")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    """A folder as the chapter leaves it, of a tiny BERT."""
    folder = tmp_path_factory.mktemp("onnx")
    model = make_model("bert", tokenizer)
    model.config.id2label = {0: "bad", 1: "fair", 2: "good"}
    model.save_pretrained(folder)
    own = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    own.model_max_length = 120
    own.save_pretrained(folder)
    export_onnx(model, tokenizer, folder / "model.onnx")
    quantize_blocks(folder / "model.onnx", folder / "model_int8.onnx")
    own.backend_tokenizer.enable_truncation(120)
    own.backend_tokenizer.enable_padding(pad_id=own.pad_token_id, pad_token=own.pad_token)
    own.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    "kind", ["bert", "deberta-v2", "distilbert", "gpt2", "modernbert", "mpnet"]
)
def test_onnx_gives_the_logits_of_torch_for_batches_of_any_size(kind, tokenizer, tmp_path):
    model = make_model(kind, tokenizer)
    export_onnx(model, tokenizer, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    for texts in (TEXTS, TEXTS[:1], TEXTS[3:5], TEXTS * 5):
        batch = batch_of(texts, tokenizer)
        taken = {value.name: batch[value.name] for value in session.get_inputs()}
        expected = ship.run_torch(model, taken)
        assert np.ptp(expected) > 1e-3
        assert run_session(session, batch) == pytest.approx(expected, abs=1e-5)


def test_the_files_are_small_and_hold_no_path_of_this_computer(exported):
    sizes = {}
    for file in exported.glob("*.onnx"):
        content = file.read_bytes()
        sizes[file.stem] = len(content)
        for path in (sys.prefix, str(ROOT), "site-packages"):
            assert path.encode() not in content, file.name
    onnx.checker.check_model(str(exported / "model.onnx"))
    assert sizes["model_int8"] < 0.3 * sizes["model"]


def test_int8_by_block_answers_a_text_alike_whatever_its_batch_holds(exported, tokenizer):
    session = open_session(exported / "model_int8.onnx")
    together = run_session(session, batch_of(TEXTS, tokenizer))
    alone = np.concatenate([run_session(session, batch_of([text], tokenizer)) for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-4)
    exact = run_session(open_session(exported / "model.onnx"), batch_of(TEXTS, tokenizer))
    assert not np.array_equal(together, exact)
    assert np.sqrt(np.mean((together - exact) ** 2)) < 0.1 * exact.std()


def test_the_classifier_without_torch_answers_as_the_pipeline_does(exported):
    answers = pipeline("text-classification", model=str(exported))(TEXTS, truncation=True)
    labels, confidences = OnnxClassifier(exported, "model.onnx")(TEXTS)
    assert labels == [answer["label"] for answer in answers]
    assert confidences == pytest.approx([answer["score"] for answer in answers], abs=1e-5)
    code = (
        f"from helpers.serving import OnnxClassifier as C; import sys; C({str(exported)!r})(['a'])"
    )
    said = run_python(
        "-c", f"{code}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    assert said.stdout.strip() == "[]"


def test_the_benchmark_measures_every_way_and_names_the_layers(exported, tmp_path, capsys):
    model = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    labels = ship.run_torch(model, batch_of(TEXTS, tokenizer)).argmax(axis=1).tolist()
    figures = ship.compare(model, tokenizer, TEXTS * 4, labels * 4, tmp_path, repeats=1)
    assert figures["float32"]["size"] == figures["float32"]["equal"] == 1
    assert figures["float32"]["logits"] < 1e-5 < figures["by_column"]["logits"]
    assert figures["by_block"]["logits"] > 1e-5 and figures["by_block"]["size"] < 0.3
    for way in figures.values():
        assert way["latency"] > 0 and way["rate"] > 0 and -1 <= way["gain"] <= 0
    said = capsys.readouterr().out
    assert said.count("by column alone: bert.") == 6 and "these six in float32: size=" in said


# In a process of its own: huggingface_hub reads its variables when it starts.
CHAPTER = """
import json, sys
from pytest import MonkeyPatch
from lessons import make_here, run_here
from suite.start import check_values
make_here(MonkeyPatch())
run_here("12", check_values(json.loads(sys.argv[1])))
"""


def test_the_chapter_puts_the_model_of_an_own_file_its_card_and_onnx_on_the_hub(
    tmp_path, tiny_model, loopback
):
    rows = pd.DataFrame({"comment": [f"text {n}" for n in range(240)], "stars": [1, 2, 3] * 80})
    rows.to_csv(tmp_path / "mine.csv", index=False)
    own = {"hub_model_id": "me/mine", "run_dir": str(tmp_path / "run"), "model_name": tiny_model}
    own |= {"dataset_name": str(tmp_path / "mine.csv"), "text_column": "comment"}
    own |= {"label_column": "stars"}
    with HubStandIn({}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_x"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        run_python("-c", CHAPTER, json.dumps({**SMOKE, **own}), env=environment)
        _, files = hub.repositories["models", "me/mine"].find("main")
        assert hub.private["models", "me/mine"]
    assert not any(str(tmp_path).encode() in content for content in files.values())
    for name, content in files.items():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    logits = []
    for folder in (tmp_path / "fetched", tmp_path / "run" / "model"):
        inputs = AutoTokenizer.from_pretrained(folder)("A film.", return_tensors="pt")
        logits.append(AutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits)
    assert torch.equal(*logits)
    labels, _ = OnnxClassifier(tmp_path / "fetched" / "onnx")(["A film."])
    assert labels[0] in ("1", "2", "3")
    card = files["README.md"].decode()
    assert "| class | precision | recall | F1 | texts |" in card and "mine.csv" in card
    assert "95 % interval of the accuracy" in card and "## Limits" in card
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["12_ship_it"]
    assert metrics["difference_of_logits"] <= 1e-4
