"""Models of other kinds than BERT: tiny generated ones, on every road."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import ClassLabel
from lessons import make_here, run_here
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertTokenizerFast,
    RobertaTokenizerFast,
    Trainer,
)

from helpers.training import load_model, parameter_groups
from suite.chapters import all_chapters
from suite.errors import SourceError
from suite.resolve import POSITIONS_AFTER_PAD, check_pads, longest_input
from suite.runner import class_report
from suite.start import check_values

pytestmark = pytest.mark.slow


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = {
    "distilbert": (BertWordPieceTokenizer, DistilBertTokenizerFast, "attention_dropout"),
    "modernbert": (ByteLevelBPETokenizer, RobertaTokenizerFast, "attention_dropout"),
    "roberta": (ByteLevelBPETokenizer, RobertaTokenizerFast, "attention_probs_dropout_prob"),
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "hidden_dim": 64, "type_vocab_size": 1}


@pytest.fixture(params=["distilbert", "roberta"])
def model_folder(request, twenty_classes, tmp_path):
    return make_model(request.param, twenty_classes[1]["dataset_name"], tmp_path, positions=66)


def make_model(kind, texts, folder, positions):
    """Save a model of random weights with a tokenizer of its own, as transformers saves one."""
    folder = folder / kind
    folder.mkdir()
    make_vocabulary, make_tokenizer, _ = KINDS[kind]
    vocabulary = make_vocabulary()
    vocabulary.train(texts, vocab_size=400, special_tokens=SPECIAL)
    vocabulary.save_model(str(folder))
    tokenizer = make_tokenizer.from_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": positions, **SIZES}
    config = AutoConfig.for_model(kind, pad_token_id=tokenizer.pad_token_id, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_other_architectures_run_on_the_pytorch_roads_and_keras_refuses_them(
    model_folder, twenty_classes, tmp_path, monkeypatch
):
    names, parameters = twenty_classes
    parameters |= {"model_name": str(model_folder), "run_dir": str(tmp_path / "run")}
    settings = check_values(parameters)
    make_here(monkeypatch)
    for number in ("04", "08"):
        run_here(number, settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["08_trainer"]["difference_of_losses"] <= 1e-6
    for folder in (tmp_path / "run" / "model", tmp_path / "run" / "trainer"):
        config = json.loads((folder / "config.json").read_text())
        assert config["model_type"] == model_folder.name
        assert sorted(config["id2label"].values()) == names
        assert config["label2id"] == {name: int(n) for n, name in config["id2label"].items()}
        weights = load_file(folder / "model.safetensors")
        assert any(name.startswith("classifier.") for name in weights)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer("a film")["input_ids"]
        assert tokenizer.model_max_length == parameters["max_length"]
    its_type = f"it is of type '{model_folder.name}'; chapters 4 and 8 can fine-tune it"
    with pytest.raises(SourceError, match=f"the Keras road .*{its_type}"):
        run_here("09", settings)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_every_torch_chapter_takes_other_kinds_than_bert_and_reads_long_texts_in_windows(
    kind, twenty_classes, tmp_path, monkeypatch, capsys
):
    """ModernBERT reads 8,192 tokens, so its windows may be longer than a BERT."""
    _, parameters = twenty_classes
    path = Path(parameters["dataset_name"])
    lines = path.read_text().splitlines(keepends=True)
    more = " in text" * 400 + "\t"
    path.write_text(
        "".join(lines[:1] + [line.replace("\t", more) for line in lines[1::4]] + lines[2::4])
    )
    positions, max_length = (8192, 600) if kind == "modernbert" else (66, 60)
    model_name = str(make_model(kind, str(path), tmp_path, positions))
    own = {"model_name": model_name, "run_dir": str(tmp_path / "run"), "long_texts": "windows"}
    settings = check_values({**parameters, **own, "max_length": max_length})
    make_here(monkeypatch)
    for path in all_chapters():
        if not path.stem.startswith("09"):
            AcceleratorState._reset_state(reset_partial_state=True)  # chapter 8 leaves it behind
            run_here(path.stem[:2], settings)
    assert "Left out: this model is no BERT." in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    card = json.loads((tmp_path / "run" / "model" / "metrics.json").read_text())
    assert metrics["05_evaluation"]["accuracy"] == pytest.approx(card["accuracy"])
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert all(f"\n{name}" in class_report(metrics) for name in config["id2label"].values())
    assert metrics["08_trainer"]["difference_of_losses"] <= 1e-6
    assert metrics["11_scale_out"]["difference_of_weights"] <= 1e-5
    assert "read in windows, whose" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_attention_dropout_is_set_and_a_head_of_other_classes_replaced(model_folder, tmp_path):
    model = load_model(str(model_folder), ClassLabel(names=["a", "b", "c"]), 0.3, 0)
    assert getattr(model.config, KINDS[model_folder.name][-1]) == 0.3
    assert model.num_labels == 3
    model.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), ClassLabel(names=[str(n) for n in range(20)]), 0.0, 0)
    assert list(model.parameters())[-2].shape[0] == 20
    assert model.config.id2label[19] == "19"


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_a_checkpoint_for_another_problem_learns_one_class_a_text(problem, tiny_model, tmp_path):
    options = {"num_labels": 1, "problem_type": problem}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, **options)
    model.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), ClassLabel(names=["a", "b", "c"]), 0.0, 0).eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7]] * 2), "labels": torch.tensor([2, 0])}
    outputs = model(**inputs)
    expected = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
    assert outputs.loss.item() == pytest.approx(expected.item())


COUNTED = {"max_position_embeddings": 20, "n_positions": 20, "vocab_size": 50}
COUNTED |= {"n_embd": 32, "n_layer": 1, "n_head": 2, "attention_window": 4, "entity_vocab_size": 5}


READERS = "bert camembert data2vec-text distilbert electra gpt2 longformer markuplm mpnet roberta"


@pytest.mark.parametrize("kind", [*READERS.split(), "xlm-roberta", "xmod"])
def test_the_longest_input_is_the_longest_that_a_model_takes(kind, tmp_path):
    pad = 1 if kind in POSITIONS_AFTER_PAD else 0
    more = {"languages": ["en_XX"], "default_language": "en_XX"} if kind == "xmod" else {}
    config = AutoConfig.for_model(kind, pad_token_id=pad, **{**SIZES, **COUNTED, **more})
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    longest = longest_input(str(tmp_path))
    assert longest == (18 if kind in POSITIONS_AFTER_PAD else 20)
    model(input_ids=torch.full((1, longest), 7), attention_mask=torch.ones(1, longest).long())


TRAINED = "albert bert deberta-v2 distilbert electra modernbert mpnet roberta"


@pytest.mark.parametrize("kind", TRAINED.split())
def test_the_loop_and_the_trainer_let_the_same_weights_decay(kind):
    config = AutoConfig.for_model(kind, relative_attention=True, num_labels=2, **SIZES)
    model = AutoModelForSequenceClassification.from_config(config)
    weights = dict(model.named_parameters())
    groups = parameter_groups(model, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    decaying, free = (group["params"] for group in groups)
    names = Trainer.get_decay_parameter_names(None, model)
    assert {id(weights[name]) for name in names} == set(map(id, decaying))
    assert len(decaying) + len(free) == len(weights) > len(names)


def test_a_model_that_knows_no_padding_is_refused_before_anything_slow(tmp_path):
    config = AutoConfig.for_model("gpt2", **COUNTED)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="of type 'gpt2' and knows no padding: set pad_token"):
        check_pads(str(tmp_path))
    AutoConfig.for_model("gpt2", pad_token_id=0, **COUNTED).save_pretrained(tmp_path)
    check_pads(str(tmp_path))
