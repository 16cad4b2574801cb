"""Where a model comes from: a packaged copy, a local folder, or the Hub.

Imports nothing heavy, and asks no network before `find_model` has to.
"""

import json
import os
from pathlib import Path

from suite.errors import SourceError
from suite.files import path_of
from suite.hub import cached_model, fetch_model
from suite.names import PACKAGED_MODELS, packaged_path, refuse_unless_hub_id

# Kinds that count positions from pad_token_id + 1, in the code of transformers 5.23.
POSITIONS_AFTER_PAD = {
    *("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
NAMED_N_POSITIONS = {"codegen", "gpt2", "gptj", "openai-gpt"}
# Kinds whose configuration has no pad_token_id by default.
WITHOUT_PAD = {
    *("falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral"),
    *("mixtral", "phi", "qwen2", "qwen3", "stablelm", "starcoder2"),
}


def find_model(model_name):
    """Return the folder of a model, downloaded from the Hub first if it has to be.

    Raises SourceError if the name is a path where no model lies, if the package that should
    carry the model is not installed, or if the Hub does not give it.
    """
    return local_model(model_name) or fetch_model(model_name)


def local_model(model_name):
    """Return the folder of a packaged or local model, and None for a name that the Hub may know.

    Raises SourceError if the name is a path where no model lies, or if the
    package that should carry the model is not installed.
    """
    if model_name in PACKAGED_MODELS:
        return str(packaged_path(*PACKAGED_MODELS[model_name]))
    path = path_of(model_name)
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise SourceError(
                f"model_name: the folder {model_name!r} holds no config.json, so no model can be loaded from it"
            )
        return str(path)
    refuse_unless_hub_id("model_name", model_name)
    return None


def longest_input(model_name):
    """Return how many tokens a model reads at most; None if only the Hub or loading can tell."""
    config = _known_config(model_name)
    positions, model_type = config.get("max_position_embeddings"), config.get("model_type")
    if model_type in NAMED_N_POSITIONS:
        positions = config.get("n_positions", 1024)
    if positions and model_type in POSITIONS_AFTER_PAD:
        positions -= config.get("pad_token_id", 1) + 1
    return positions


def check_pads(model_name):
    """Raise SourceError if a model cannot tell padding from words; asks no network."""
    config = _known_config(model_name)
    if config.get("model_type") in WITHOUT_PAD and config.get("pad_token_id") is None:
        raise SourceError(
            f"model_name: {model_name!r} is of type {config['model_type']!r} and knows no padding: set pad_token"
            " in its tokenizer and pad_token_id in its config.json, or take another model"
        )


def _known_config(model_name):
    """Return the config of a model that lies here, {} of one that only the Hub knows."""
    folder = local_model(model_name) or cached_model(model_name)
    return _config(folder) if folder and Path(folder, "config.json").is_file() else {}


def _config(folder):
    return json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))


def check_convertible(model_name):
    """Raise SourceError unless `BertBackbone.from_preset` reads this model as it is meant."""
    folder = Path(find_model(model_name))
    config = _config(folder)
    model_type, activation = config.get("model_type"), config.get("hidden_act")
    fixed = {"layer_norm_eps": 1e-12, "type_vocab_size": 2}  # what KerasHub does not read
    others = [name for name, value in fixed.items() if config.get(name, value) != value]
    if model_type != "bert":
        reason = f"it is of type {model_type!r}"
    elif not str(activation).startswith("gelu"):
        reason = f"its activation is {activation!r}, not GELU"
    elif others:
        reason = f"its {others[0]} is {config[others[0]]}, not {fixed[others[0]]}"
    elif not (folder / "model.safetensors").is_file():
        reason = "it has no file model.safetensors"
    else:
        return
    raise SourceError(
        f"model_name: the Keras road converts models of type 'bert', but not {model_name!r}: {reason};"
        " chapters 4 and 8 can fine-tune it"
    )
