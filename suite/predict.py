"""Labels for the rows of a file, by a fine-tuned model: the command `finetuning predict`."""

import glob
import io
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, exceptions, load_dataset
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.activations import GELUActivation

from suite.errors import SourceError, UserError
from suite.files import Table, check_kind, kind_of, path_of, read_table
from suite.model_folder import check_model_folder
from suite.resolve import longest_input

ROWS_A_WINDOW = 8192  # are in memory at the same time, and sorted by their lengths
TOKENS_A_BATCH = 2048
SEPARATORS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (*SEPARATORS, ".jsonl", ".parquet")
# Their heads read the first token of the last layer, and their layers have the parts of a BERT.
LIKE_BERT = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
# Code of other models may read the weights of a Linear itself, as that of DeBERTa does.
PACKED = (*LIKE_BERT, "distilbert")


class Classifier:
    """A model folder that answers with the probabilities of its classes.

    names: those of the classes; several: whether a text may have several of them
    max_length: tokens of a text that are read at once, those of the training where the folder tells
    long_texts: how a longer text is read, as the folder tells; see chapter 15
    """

    def __init__(self, folder):
        name, folder = str(folder), path_of(folder)
        if not (folder / "config.json").is_file():
            raise SourceError(f"{name!r} is no folder of a model: it holds no config.json")
        check_model_folder(folder, name)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        load = AutoModelForSequenceClassification.from_pretrained
        self.device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.model = load(folder, dtype=torch.float32).eval().to(self.device)
        config = self.model.config
        if config.model_type in LIKE_BERT:
            read_first_token_only(self.model)
        packs = self.device == "cpu" and torch.backends.mkldnn.is_available()
        if packs and config.model_type in PACKED:
            pack_weights(self.model)
        self.names = [config.id2label[number] for number in range(config.num_labels)]
        self.several = config.problem_type == "multi_label_classification"
        thresholds = getattr(config, "thresholds", None) or {}
        self.thresholds = np.array([thresholds.get(name, 0.5) for name in self.names])
        self.long_texts = getattr(config, "long_texts", "cut")
        wanted = _trained_length(folder) or self.tokenizer.model_max_length
        self.max_length = min(wanted, longest_input(str(folder)) or wanted, 1_000_000)

    def probabilities(self, texts, bar):
        """Return float32 of shape (texts, classes), in the order of the texts; `bar` shows how far it is."""
        if not texts:
            return np.zeros((0, len(self.names)), np.float32)
        tokens, text_of_window = self._tokenize(texts)
        first = np.diff(text_of_window, prepend=-1)  # 1 where a text begins
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        order = rest = np.argsort(-lengths, kind="stable")
        logits = []
        padded = self.tokenizer.pad_token is not None and self.model.config.pad_token_id is not None
        while len(rest):
            size = max(1, TOKENS_A_BATCH // max(1, lengths[rest[0]])) if padded else 1
            rows, rest = rest[:size], rest[size:]
            batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
            if padded:
                batch = self.tokenizer.pad(batch)
            batch = {name: torch.tensor(values).to(self.device) for name, values in batch.items()}
            with torch.inference_mode():
                logits.append(self.model(**batch).logits.float().cpu())
            bar.update(first[rows].sum())
        logits = torch.cat(logits)[np.argsort(order)]
        # What follows is as the pipeline of transformers does it.
        if self.model.config.problem_type == "regression":
            scores = logits
        elif self.several or len(self.names) == 1:
            scores = logits.sigmoid()
        else:
            scores = logits.softmax(-1)
        sums = np.add.reduceat(scores.numpy(), np.flatnonzero(first))
        return sums / np.bincount(text_of_window)[:, None].astype(np.float32)

    def _tokenize(self, texts):
        """Return the inputs of all windows, a text being one or more, and the number of each one's text."""
        if self.long_texts == "head_tail":
            head, tokens = self.max_length // 2, self.tokenizer(texts, verbose=False)
            for lists in tokens.values():
                for n in np.flatnonzero([len(ids) > self.max_length for ids in lists]):
                    lists[n] = lists[n][:head] + lists[n][head - self.max_length :]
            return tokens, np.arange(len(texts))
        overlap = {}
        if self.long_texts == "windows":
            overlap = {"stride": self.max_length // 4, "return_overflowing_tokens": True}
        tokens = self.tokenizer(texts, truncation=True, max_length=self.max_length, **overlap)
        return tokens, np.array(tokens.pop("overflow_to_sample_mapping", range(len(texts))))

    def answer(self, probabilities):
        """Return (labels, confidences): a name or, where a text may have several, a list of them.

        The confidence in several is that in the least sure of them, and in none the probability that
        not even the likeliest belongs.
        """
        if not self.several:
            best = probabilities.argmax(axis=1)
            return [self.names[number] for number in best], probabilities.max(axis=1)
        chosen = probabilities >= self.thresholds
        labels = [[self.names[n] for n in np.flatnonzero(row)] for row in chosen]
        least = np.where(chosen, probabilities, 1.0).min(axis=1)
        return labels, np.where(chosen.any(axis=1), least, 1 - probabilities.max(axis=1))


def read_first_token_only(model):
    """Have the last layer of a model that is built like BERT compute its first token alone."""
    last = model.base_model.encoder.layer[-1]
    attention, output = last.attention.self, last.attention.output

    def heads(values):
        return values.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

    def forward(hidden_states, attention_mask=None, *args, **kwargs):
        first = hidden_states[:, :1]
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        query, key = heads(attention.query(first)), heads(attention.key(hidden_states))
        value = heads(attention.value(hidden_states))
        read = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
        return last.feed_forward_chunk(output(read.transpose(1, 2).flatten(2), first))

    last.forward = forward


class PackedLinear(torch.nn.Module):
    """A Linear with its weights in the order in which oneDNN reads them; for prediction on a processor.

    What `torch.compile` makes of one when it freezes a model. It computes in float32 too, and faster
    than the MKL that a Linear calls where that is slow, as on some processors of AMD.
    activation: "gelu" to compute that too, or "none"
    """

    def __init__(self, linear, activation):
        super().__init__()
        self.activation = activation
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs):
        return torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, self.activation, [], "none"
        )


def pack_weights(model):
    """Put a PackedLinear in the place of each Linear of a model, with the GELU that follows it."""
    with_gelu = type(getattr(model, "intermediate_act_fn", None)) is GELUActivation
    if with_gelu:
        model.intermediate_act_fn = torch.nn.Identity()
    for name, module in model.named_children():
        if type(module) is torch.nn.Linear:
            setattr(model, name, PackedLinear(module, "gelu" if with_gelu else "none"))
        else:
            pack_weights(module)


def predict_file(
    model_folder, file, output, text_column="text", every=False, overwrite=False, encoding="auto"
):
    """Write the rows of a file with their labels to another; return (rows, blank rows, seconds).

    file: CSV, TSV, JSON, JSON Lines or Parquet, or "-" for lines on standard input
    output: CSV, TSV, JSON Lines or Parquet, or "-" for JSON Lines on standard output; it is there whole or
        not at all
    every: write the probability of every class too; the seconds are without those of loading the model
    encoding: that of a CSV file, as in training

    Raises UserError with one line for a file or model that cannot be read, and for an output that is there.
    """
    start, (file, output) = perf_counter(), map(str, (file, output))
    text_column = "text" if file == "-" else text_column
    _check_output(output, overwrite)
    with tempfile.TemporaryDirectory(prefix="predict-") as cache, _no_bars():
        rows = _load(file, text_column, cache, encoding)
        loading = perf_counter()
        classifier = Classifier(model_folder)
        start += perf_counter() - loading
        several = classifier.several and path_of(output).suffix.lower() not in SEPARATORS
        kinds = {"label": List(Value("string")) if several else Value("string")}
        numbers = ["confidence", *(f"probability_{name}" for name in classifier.names if every)]
        kinds |= dict.fromkeys(numbers, Value("float64"))
        names = {name: _free(name, rows.column_names) for name in kinds}
        blank = 0

        def answer(texts):
            nonlocal blank
            texts = [str(text or "").strip() for text in texts]
            filled = [row for row, text in enumerate(texts) if text]
            blank += len(texts) - len(filled)
            bar.update(len(texts) - len(filled))
            probabilities = classifier.probabilities([texts[row] for row in filled], bar)
            labels, confidences = classifier.answer(probabilities)
            if classifier.several and not several:
                labels = [", ".join(chosen) for chosen in labels]
            scores = np.column_stack([confidences, probabilities]).astype(float).round(6).tolist()
            answers = [{"label": [] if several else "", **dict.fromkeys(numbers)} for _ in texts]
            for row, label, values in zip(filled, labels, scores, strict=True):
                answers[row] = {"label": label, **dict(zip(numbers, values, strict=False))}
            return {name: [answer[kind] for answer in answers] for kind, name in names.items()}

        features = Features({**rows.features, **{names[n]: kind for n, kind in kinds.items()}})
        # A fingerprint, or `map` would hash the model to make one.
        with tqdm(total=len(rows), unit=" rows", file=sys.stderr) as bar:
            answered = rows.map(
                answer,
                input_columns=text_column,
                batched=True,
                batch_size=ROWS_A_WINDOW,
                features=features,
                new_fingerprint="answers",
            )
            _write(answered, output, overwrite)
    return len(rows), blank, perf_counter() - start


def _free(name, taken):
    return name if name not in taken else _free(f"predicted_{name}", taken)


def _trained_length(folder):
    """Return the `max_length` that a model of the chapters was trained with; None of any other."""
    try:
        stamp = json.loads((folder / "made_by.json").read_text(encoding="utf-8"))
        return int(stamp["parameters"]["max_length"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _no_bars():
    """Keep `datasets` from showing bars of its own."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _load(file, text_column, cache, encoding):
    """Return the rows of a file as a Dataset on the disk, in the folder `cache`."""
    path, table = path_of(file), None
    if file == "-":
        lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8")
        table = Table(["text"], lambda: ([line.rstrip("\n")] for line in lines))
    elif not path.is_file():
        raise SourceError(f"there is no file {file!r}")
    else:
        check_kind(path)
        if kind_of(path) == "csv":  # what stands in the other columns is written as it is
            table = read_table(path, [text_column], encoding)
    try:
        if table:
            rows = Dataset.from_generator(
                lambda: (dict(zip(table.columns, row, strict=True)) for row in table.rows()),
                features=Features(dict.fromkeys(table.columns, Value("string"))),
                cache_dir=cache,
                fingerprint="rows",
            )
        else:
            place = {"data_files": glob.escape(str(path.resolve())), "cache_dir": cache}
            rows = load_dataset(kind_of(path), split="train", **place)
    except (exceptions.DatasetsError, ValueError, OSError) as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise SourceError(f"{file!r} cannot be read: {said}") from None
    if text_column not in rows.column_names:
        there = ", ".join(rows.column_names)
        raise SourceError(f"--text-column: {file!r} has no column {text_column!r}; it has {there}")
    if not isinstance(kind := rows.features[text_column], Value):
        raise SourceError(f"--text-column: {text_column!r} of {file!r} holds {kind}, no texts")
    return rows


def _check_output(output, overwrite):
    path = path_of(output)
    if output == "-":
        return
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"-o: {output!r} must end in one of {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise UserError(
            f"-o: {output!r} cannot be written: there is no folder {str(path.parent)!r}"
        )
    if path.exists() and not overwrite:
        raise UserError(f"-o: {output!r} is there already; give another name, or --overwrite")


def _write(rows, output, overwrite):
    """Write a Dataset under another name, which it changes for its own at the end."""
    if output == "-":
        rows.to_json(sys.stdout.buffer, force_ascii=False)
        return
    path = path_of(output)
    ending, building = path.suffix.lower(), path.with_name(f".{os.getpid()}-{path.name}")
    try:
        if ending in SEPARATORS:
            rows.to_csv(building, index=False, sep=SEPARATORS[ending])
        elif ending == ".jsonl":
            rows.to_json(building, force_ascii=False)
        else:
            rows.to_parquet(building)
        _check_output(output, overwrite)
        building.replace(path)
    except OSError as error:
        raise UserError(f"-o: {output!r} cannot be written: {error.strerror}") from None
    finally:
        building.unlink(missing_ok=True)
