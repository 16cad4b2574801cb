#!/bin/sh
# transformers 5.23.0, tokenizers from its own pin, torch 2.13.0 (CPU).
# A text-classification pipeline cuts no text by itself, whatever the model's folder says: neither the
# `truncation` section of tokenizer.json (which the tokenizers library itself obeys), nor `truncation` and
# `max_length` in tokenizer_config.json, nor `task_specific_params` in config.json. `model_max_length` is
# there and read, and is not enough either. Only truncation=True in the call cuts.
# Seen: RuntimeError "The expanded size of the tensor (66) must match the existing size (16)" for each of the
# four folders, and a label with truncation=True.
# Exits with 1 if one of the folders is enough now.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder/model" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

folder = Path(sys.argv[1])
backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "word": 3}, unk_token="[PAD]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **special)
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
model = BertForSequenceClassification(BertConfig(vocab_size=4, max_position_embeddings=16, **sizes))
text = "word " * 64
section = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
changes = {
    "model_max_length alone": ("config.json", {}),
    "tokenizer.json": ("tokenizer.json", {"truncation": section}),
    "tokenizer_config.json": ("tokenizer_config.json", {"truncation": True, "max_length": 16}),
    "task_specific_params": (
        "config.json",
        {"task_specific_params": {"text-classification": {"truncation": True, "max_length": 16}}},
    ),
}
changed = False
for name, (file, values) in changes.items():
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **values}))
    if name == "tokenizer.json":
        assert len(Tokenizer.from_file(str(folder / file)).encode(text).ids) == 16
    classify = pipeline("text-classification", model=str(folder), device=-1)
    assert classify(text, truncation=True)[0]["label"].startswith("LABEL_")
    try:
        print(f"{name}: {classify(text)}")
        changed = True
    except RuntimeError as error:
        print(f"{name}: RuntimeError: {error}")
sys.exit(changed)
PYTHON
