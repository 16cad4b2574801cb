"""Look at a model's files before anything loads them: whole, of a known kind, and numbers only."""

import json
from pathlib import Path

from suite.errors import SourceError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def check_model_folder(folder, model_name):
    """Raise SourceError unless a folder holds a model that transformers knows, all of it, as safetensors."""
    config = _read(folder / "config.json", "model", model_name)
    _check_weights(folder, model_name)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise SourceError(
            f"model_name: {model_name!r} holds no tokenizer, such as tokenizer.json; save one beside the model"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _read(folder / name, "tokenizer", model_name)
    check_model_type(config, model_name)


def check_model_type(config, model_name):
    """Raise SourceError unless the installed transformers has the code for a model's config.

    config: what config.json holds, a dictionary
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # heavy

    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise SourceError(f"model_name: config.json of {model_name!r} says no model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        code = "; code that comes with a model is never run" if "auto_map" in config else ""
        raise SourceError(
            f"model_name: {model_name!r} is of type {model_type!r}, which the installed transformers does not"
            f" know{code}; take another model"
        )


def _read(file, what, model_name):
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise SourceError(f"model_name: {file.name} is not one of a {what} in {model_name!r}")
    return values


def _check_weights(folder, model_name):
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if (folder / "model.safetensors.index.json").is_file():
        index = _read(folder / "model.safetensors.index.json", "model", model_name)
        names = {str(name) for name in dict(index.get("weight_map") or {}).values()}
        files = sorted(folder / Path(name).name for name in names)
    elif folder / "model.safetensors" not in files:
        raise SourceError(
            f"model_name: {model_name!r} holds no model.safetensors; weights in other formats can run code when"
            " they are loaded, so save the model again with save_pretrained"
        )
    for file in files:
        try:
            with safe_open(file, framework="np") as weights:
                weights.keys()
        except (OSError, SafetensorError) as error:
            raise SourceError(
                f"model_name: {file.name} is not whole in {model_name!r} ({' '.join(str(error).split())})"
            ) from None
