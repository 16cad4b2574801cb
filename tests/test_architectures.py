"""Models of other kinds than BERT: tiny generated ones, on every road."""

import json

import pytest
from accelerate.state import AcceleratorState
from datasets import ClassLabel
from lessons import make_here, run_here
from safetensors import safe_open
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DistilBertTokenizerFast,
    RobertaTokenizerFast,
)

from helpers.training import load_model
from suite.errors import SourceError
from suite.runner import class_report
from suite.start import check_values

pytestmark = pytest.mark.slow


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = {
    "distilbert": (BertWordPieceTokenizer, DistilBertTokenizerFast, "attention_dropout"),
    "roberta": (ByteLevelBPETokenizer, RobertaTokenizerFast, "attention_probs_dropout_prob"),
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "hidden_dim": 64, "type_vocab_size": 1}


@pytest.fixture(params=KINDS)
def model_folder(request, twenty_classes, tmp_path):
    """A model of random weights with a tokenizer of its own, saved as transformers saves one."""
    folder = tmp_path / request.param
    folder.mkdir()
    make_vocabulary, make_tokenizer, _ = KINDS[request.param]
    vocabulary = make_vocabulary()
    _, parameters = twenty_classes
    vocabulary.train(parameters["dataset_name"], vocab_size=400, special_tokens=SPECIAL)
    vocabulary.save_model(str(folder))
    tokenizer = make_tokenizer.from_pretrained(folder)
    config = AutoConfig.for_model(
        request.param,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=66,
        **SIZES,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_other_architectures_run_on_the_pytorch_roads_and_keras_refuses_them(
    model_folder, twenty_classes, tmp_path, monkeypatch
):
    """On an own file of 20 classes."""
    names, parameters = twenty_classes
    parameters |= {"model_name": str(model_folder), "run_dir": str(tmp_path / "run")}
    settings = check_values(parameters)
    make_here(monkeypatch)
    numbers = ("04", "08")
    if model_folder.name == "distilbert":  # the one that is least like BERT
        numbers = ("01", "02", "03", "04", "05", "07", "08", "11")
    for number in numbers:
        AcceleratorState._reset_state(reset_partial_state=True)  # chapter 8 leaves it behind
        run_here(number, settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["08_trainer"]["difference_of_losses"] <= 1e-6
    assert metrics.get("11_scale_out", {}).get("difference_of_weights", 0) <= 1e-5
    for folder in (tmp_path / "run" / "model", tmp_path / "run" / "trainer"):
        config = json.loads((folder / "config.json").read_text())
        assert config["model_type"] == model_folder.name
        assert sorted(config["id2label"].values()) == names
        assert config["label2id"] == {name: int(n) for n, name in config["id2label"].items()}
        with safe_open(folder / "model.safetensors", "pt") as weights:
            assert any(name.startswith("classifier.") for name in weights.keys())  # noqa: SIM118
        assert AutoTokenizer.from_pretrained(folder)("a film")["input_ids"]
    if "05_evaluation" in metrics:
        assert all(f"\n{name}" in class_report(metrics) for name in names)
    keras = (
        f"the Keras road .*it is of type '{model_folder.name}'; chapters 4 and 8 can fine-tune it"
    )
    speed = f"speeds up models of type 'bert'.*'{model_folder.name}'"
    for number, said in (("09", keras), ("10", speed)):
        with pytest.raises(SourceError, match=said):
            run_here(number, settings)


def test_attention_dropout_reaches_all_and_a_head_of_other_classes_is_replaced(
    model_folder, tmp_path
):
    model = load_model(str(model_folder), ClassLabel(names=["a", "b", "c"]), 0.3, 0)
    assert getattr(model.config, KINDS[model_folder.name][-1]) == 0.3
    assert model.num_labels == 3
    model.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), ClassLabel(names=[str(n) for n in range(20)]), 0.0, 0)
    assert list(model.parameters())[-2].shape[0] == 20
    assert model.config.id2label[19] == "19"
