"""`finetuning predict`: the labels of the pipeline, in the order of the rows, written whole or not at all."""

import io
import json
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from benchmarks import predict as bench
from conftest import write_rows
from suite import predict
from suite.errors import UserError
from suite.predict import predict_file
from suite.runner import main

TEXTS = ["A joy.", "long " * 100, "Dull", " spaces ", "😀 مرحبا", 'two\nlines, "quoted"', "NA"] * 5
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 72, "embedding_size": 32}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 70, "num_labels": 3}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "num_labels": 3}
DISTILBERT |= {"max_position_embeddings": 70}


def save_model(folder, tokenizer, kind="bert", **config):
    sizes = {"gpt2": GPT2, "distilbert": DISTILBERT}.get(kind, SIZES) | config
    common = {"vocab_size": len(tokenizer), "initializer_range": 0.5}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **common, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    return save_model(tmp_path_factory.mktemp("model"), tokenizer)


def expected(model, texts=TEXTS, **options):
    texts = [text.strip() for text in texts]
    return pipeline("text-classification", model=model)(texts, truncation=True, **options)


def named(folder, *endings):
    return [folder / f"{number}.{ending}" for number, ending in enumerate(endings)]


@pytest.fixture
def file(tmp_path):
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "texts.csv", index=False)
    return tmp_path / "texts.csv"


def rows_in(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "gpt2"])
def test_labels_and_probabilities_are_those_of_the_pipeline(kind, tokenizer, file, tmp_path):
    """Whatever the architecture, and in batches although the pipeline reads one text at a time."""
    model, output = save_model(tmp_path, tokenizer, kind), tmp_path / "output.jsonl"
    assert predict_file(model, file, output, every=True)[:2] == (len(TEXTS), 0)
    rows = rows_in(output.read_text(encoding="utf-8"))
    assert len({row["label"] for row in rows}) > 1
    for row, scores in zip(rows, expected(model, top_k=None), strict=True):
        best = max(scores, key=lambda score: score["score"])
        wanted = {f"probability_{score['label']}": score["score"] for score in scores}
        assert row.pop("label") == best["label"]
        del row["text"]
        assert row == pytest.approx(wanted | {"confidence": best["score"]}, abs=1e-5)


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_keep_their_order_and_their_own_columns(kind, ending, model, tmp_path, monkeypatch):
    """Over several windows; a blank text gets no label."""
    monkeypatch.setattr(predict, "ROWS_A_WINDOW", 7)
    file, output = named(tmp_path, kind, ending)
    texts = [*TEXTS, "", "  "]
    own = {"id": [f"{n:03}" for n in range(len(texts))], "review": texts, "label": ["1E5"] * 37}
    write_rows(pd.DataFrame(own), file)
    assert predict_file(model, file, output, "review")[:2] == (37, 2)
    read = {"jsonl": lambda path: pd.read_json(path, lines=True, dtype=False)}
    read |= {"parquet": pd.read_parquet}
    separator = "\t" if ending == "tsv" else ","
    options = {"dtype": str, "keep_default_na": False, "sep": separator}
    rows = read.get(ending, lambda path: pd.read_csv(path, **options))(output)
    assert list(rows) == ["id", "review", "label", "predicted_label", "confidence"]
    assert rows[list(own)].astype(str).to_dict("list") == own
    labels = [answer["label"] for answer in expected(model)]
    assert list(rows["predicted_label"]) == [*labels, "", ""]
    assert pd.to_numeric(rows["confidence"]).isna().tolist() == [False] * 35 + [True] * 2


def test_in_a_file_of_one_column_commas_are_part_of_a_text_and_an_empty_text_is_a_row(
    model, tmp_path
):
    """A blank line is none."""
    file, output = named(tmp_path, "csv", "jsonl")
    file.write_text('text\nlovely soup, friendly\n"quoted, too"\n""\n\nawful; wait\n')
    assert predict_file(model, file, output)[:2] == (4, 1)
    texts = ["lovely soup, friendly", "quoted, too", "", "awful; wait"]
    assert [row["text"] for row in rows_in(output.read_text())] == texts


def test_an_encoding_can_be_said(model, tmp_path):
    file, output = named(tmp_path, "csv", "jsonl")
    file.write_bytes("text\n值得再来\n很难吃\n".encode("gb18030"))
    options = ["--encoding", "gb18030", "-o", str(output)]
    assert main(["predict", model, str(file), *options]) == 0
    rows = rows_in(output.read_text(encoding="utf-8"))
    assert [row["text"] for row in rows] == ["值得再来", "很难吃"]
    assert main(["predict", model, str(file), "--encoding", "gb18031", "-o", "-"]) == 1


def test_lines_come_in_and_go_out_as_json(model, monkeypatch, capsys):
    lines = io.BytesIO(b"A joy.\n\nDull\r\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines))
    assert main(["predict", model, "-"]) == 0
    said = capsys.readouterr()
    rows = rows_in(said.out)
    assert [row["text"] for row in rows] == ["A joy.", "", "Dull"]
    first, _, last = (row["label"] for row in rows)
    assert [first, last] == [answer["label"] for answer in expected(model, ["A joy.", "Dull"])]
    assert rows[1]["label"] == "" and rows[1]["confidence"] is None
    assert said.err.splitlines()[-1].startswith("3 rows in ") and said.err.endswith("1 blank\n")


def test_several_labels_take_the_thresholds_of_the_folder(tokenizer, file, tmp_path):
    names = dict(enumerate(["fun", "plot", "cast"]))
    config = {"id2label": names, "problem_type": "multi_label_classification"}
    folder, (output, plain) = tmp_path / "model", named(tmp_path, "jsonl", "csv")
    model = save_model(folder, tokenizer, thresholds={"plot": 0.0, "cast": 1.1}, **config)
    predict_file(model, file, output, every=True)
    predict_file(model, file, plain)
    rows = pd.read_json(output, lines=True)
    answers = expected(model, top_k=None)
    for row, scores in zip(rows.to_dict("records"), answers, strict=True):
        scores = {score["label"]: score["score"] for score in scores}
        wanted = ["fun", "plot"] if scores["fun"] >= 0.5 else ["plot"]
        assert row["label"] == wanted
        least = min(scores[name] for name in wanted)
        assert row["confidence"] == pytest.approx(least, abs=1e-5)
    assert list(pd.read_csv(plain)["label"]) == [", ".join(labels) for labels in rows["label"]]
    labels, sure = predict.Classifier(model).answer(np.array([[0.1, -0.1, 0.2]]))
    assert labels == [[]] and sure == pytest.approx([0.8])


@pytest.mark.parametrize(("labels", "problem"), [(1, None), (1, "regression"), (3, "regression")])
def test_scores_that_are_no_shares_are_those_of_the_pipeline(labels, problem, tokenizer, file):
    model = save_model(file.parent, tokenizer, num_labels=labels, problem_type=problem)
    predict_file(model, file, file.with_name("output.csv"))
    rows, answers = pd.read_csv(file.with_name("output.csv")), pd.DataFrame(expected(model))
    assert list(rows["label"]) == list(answers["label"])
    assert list(rows["confidence"]) == pytest.approx(list(answers["score"]), abs=1e-5)


def test_texts_are_cut_as_in_training_and_where_the_model_can_read_no_more(tokenizer, tmp_path):
    model = save_model(tmp_path, tokenizer)
    assert predict.Classifier(model).max_length == 64
    for trained_with, length in ((8, 8), (500, 72)):
        made_by = {"parameters": {"max_length": trained_with}}
        (tmp_path / "made_by.json").write_text(json.dumps(made_by))
        assert predict.Classifier(model).max_length == length


def test_what_cannot_be_is_said_in_one_line_and_an_output_is_kept(model, file, tmp_path, capsys):
    output, empty = named(tmp_path, "csv", "csv")
    output.write_text("mine")
    empty.write_text("")
    (tmp_path / "lists.jsonl").write_text('{"text": ["a", "b"]}\n')
    cases = {
        (model, file, "-o", output): "is there already; give another name, or --overwrite",
        (model, file, "-o", tmp_path / "a.xlsx"): "must end in one of .csv, .tsv, .jsonl, .parquet",
        (model, file, "-o", tmp_path / "no" / "a.csv"): "cannot be written: there is no folder",
        (model, file, "--text-column", "review"): "has no column 'review'; it has text",
        (model, tmp_path / "no.csv"): "there is no file",
        (model, empty): "cannot be read",
        (model, tmp_path / "lists.jsonl"): "no texts",
        (tmp_path, file): "is no folder of a model: it holds no config.json",
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, said in cases.items():
        assert main(["predict", *map(str, arguments)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert said in error and error.split(":")[0].endswith("Error"), error
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert output.read_text() == "mine"
    assert main(["predict", model, str(file), "-o", str(output), "--overwrite"]) == 0
    assert len(pd.read_csv(output)) == len(TEXTS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_prediction_that_breaks_off_leaves_nothing_half(error, model, file, monkeypatch):
    monkeypatch.setattr(predict, "ROWS_A_WINDOW", 7)
    answers = [([""] * 7, np.zeros(7))] * 2
    monkeypatch.setattr(predict.Classifier, "answer", Mock(side_effect=[*answers, error]))
    with pytest.raises(error):
        predict_file(model, file, file.with_name("output.csv"))
    assert list(file.parent.iterdir()) == [file]


def test_standard_input_that_is_no_text_is_refused(model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    with pytest.raises(UserError, match="'-' cannot be read: .*utf-8"):
        predict_file(model, "-", "-")


@pytest.mark.long
def test_the_benchmark_compares_speed_and_labels(tmp_path, monkeypatch):
    monkeypatch.setitem(bench.DATA, "rt", (bench.DATA["rt"][0], 60))
    bench.save_model(tmp_path / "model")
    ratio, memory = bench.compare(str(tmp_path / "model"), tmp_path, "rt", 1)
    assert ratio > 1 and 100 < memory < 4096
