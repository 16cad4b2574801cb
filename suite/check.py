"""Look through a data set before anything slow: what breaks training, and what misleads."""

import re
import unicodedata
from dataclasses import dataclass

import pandas as pd

from suite.files import class_names
from suite.resolve import find_model
from suite.rows import DatasetError, find_rows

# Rows of which the tokens are counted.
SAMPLE = 1000
NO_ROWS = pd.DataFrame({"text": [], "label": []}, dtype=object)
# A class with fewer rows is hardly learned, and its figures are chance.
FEW_ROWS = 10
# More unknown tokens than this share mean another language than the model's.
MANY_UNKNOWN = 0.1
# What the parameter `long_texts` does with a text that is too long.
LONG_TEXTS = {
    "cut": "cut",
    "head_tail": "cut in the middle",
    "windows": "cut in training and read in windows afterwards",
}
# Places or classes that a note names, before it counts the others.
SHOWN = 5


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found.

    splits: one line a split: rows, and how many of them have a fault
    classes: one line a class: rows that are left, and their share
    notes: what to look at, a sentence each
    """

    splits: pd.DataFrame
    classes: pd.DataFrame
    notes: list[str]

    def __str__(self):
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([self.splits.to_string(), "", self.classes.to_string(), "", *notes])


def check_dataset(settings):
    """Return a Report on the rows of a data set; takes seconds for hundreds of thousands of rows.

    Texts that differ from another in capitals, spaces and punctuation alone are judged by their first
    200 and last 100 characters, the share of too long ones by a sample. Raises what `read_rows` raises.
    """
    found, rows = find_rows(settings), read_rows(settings, look_closer=True)
    usable = usable_rows(rows)
    every = pd.concat(usable.values())
    texts = _test_first(rows[~rows["blank"]])
    faults = {
        "rows": True,
        "no text": rows["blank"],
        "no label": rows["label"].isna(),
        "repeated": texts.duplicated(["split", "text"]),
        "in another split": texts.groupby("text")["split"].transform("first") != texts["split"],
        "usable": rows.index.isin(every.index),
    }
    faults = pd.DataFrame(faults, index=rows.index).fillna(False).astype(int)
    splits = faults.groupby(rows["split"], observed=False).sum()[::-1].rename_axis(None)
    counts = every["label"].value_counts()
    classes = pd.DataFrame({"rows": counts, "share": (counts / len(every)).map("{:.1%}".format)})
    classes.index.name = None
    notes = [*found.notes]
    if dropped := len(rows) - len(every):
        notes.append(
            f"{dropped} rows are left out: no text, no label, or a text that was there before"
        )
    alike = every[every["alike"].duplicated(keep=False)].sort_values("alike")
    if len(alike):
        notes.append(
            f"{len(alike)} texts differ from another in capitals, spaces or punctuation alone"
            f" ({_where(alike, found)}): one may be trained on and the other tested with"
        )
    for name, of_split in usable.items():
        if missing := set(usable["train"]["label"]) - set(of_split["label"]):
            notes.append(f"no row in {name} of the classes {_some(sorted(missing))}")
    notes += _odd_labels(rows, counts.index, found)
    notes.append(
        f"always answering {classes.index[0]!r} would be right for {classes['share'].iloc[0]} of the rows"
    )
    if rare := list(classes.index[counts.to_numpy() < FEW_ROWS]):
        notes.append(f"fewer than {FEW_ROWS} rows: {_some(rare)}")
    notes += _read_by_the_model(settings, every)
    return Report(splits, classes, notes)


def _odd_labels(rows, classes, found):
    """Notes on texts with several classes, classes that are alike, and classes that look like lists."""
    notes = []
    rows = rows[~rows["blank"] & rows["label"].notna()]
    against = rows[rows.groupby("text")["label"].transform("nunique") > 1]
    if len(against):
        notes.append(
            f"{against['text'].nunique()} texts occur with different classes"
            f" ({_where(against, found)}): these contradict one another, and only the first row of"
            " each is kept"
        )
    looks = pd.Series([_look(name) for name in classes], index=classes)
    alike = looks[looks.duplicated(keep=False)].sort_values(kind="stable").index
    if len(alike):
        shown = _some([ascii(name) if name != _visible(name) else name for name in alike])
        notes.append(f"classes that differ in capitals, spaces or invisible letters alone: {shown}")
    if listed := [name for name in classes if re.search(r"\w\s*\|\s*\w|^\[.*\]$", name)]:
        notes.append(
            f"{_some(listed)}: if these are several labels of one text, see the end of chapter 7"
        )
    return notes


def _visible(name):
    """A name without marks that do not show, its accents joined to their letters."""
    return re.sub(r"[\u200b-\u200f\u2060\ufeff]", "", unicodedata.normalize("NFC", name))


def _look(name):
    return "".join(_visible(name).split()).casefold()


def read_rows(settings, look_closer=False):
    """Return a table of all rows of a data set, in their order.

    Columns: `split`; `row`, the number in it; `text`, a hash of the text without spaces around it;
    `blank`; `label`; and with `look_closer` also `alike`, a hash of what is left without capitals
    and punctuation, and `words`, the text itself for a sample of rows.

    Raises DatasetError if there is one class alone, a class that has one row alone, or a class in
    validation or test that train does not have, and what `find_rows` raises.
    """
    from pyarrow.parquet import ParquetFile

    found = find_rows(settings)
    blocks = [_digest("train", NO_ROWS, {}, look_closer and SAMPLE)]
    for split, file in found.files.items():
        source = ParquetFile(file)
        names = dict(enumerate(class_names(source.schema_arrow).get(settings.label_column, [])))
        one_in = max(1, source.metadata.num_rows // SAMPLE) if look_closer else None
        # All texts at once would fill the memory.
        batches = source.iter_batches(10_000, columns=[settings.text_column, settings.label_column])
        blocks += [_digest(split, batch.to_pandas(), names, one_in) for batch in batches]
    rows = pd.concat(blocks, ignore_index=True)
    rows["split"] = pd.Categorical(rows["split"], list(found.files))
    rows["row"] = rows.groupby("split", observed=False).cumcount()
    _check_labels(usable_rows(rows), settings.label_column, found)
    return rows


def usable_rows(rows):
    """Return {split: rows that chapter 01 keeps}: with text and label, and each text once."""
    kept = rows[~rows["blank"] & rows["label"].notna()]
    kept = _test_first(kept).drop_duplicates("text").sort_index()
    return {split: kept[kept["split"] == split] for split in rows["split"].cat.categories}


def _test_first(rows):
    """Rows in the order in which they are kept: a text of two splits stays in test."""
    return rows.sort_values("split", ascending=False, kind="stable")


def check_subset(rows):
    """Say which classes have no row among the training rows; DatasetError if only one has."""
    names, there = rows.features["label"].names, set(rows["label"][:])
    missing = [name for number, name in enumerate(names) if number not in there]
    if len(there) < 2:
        raise DatasetError(
            f"all {rows.num_rows} training rows are of the class {names[min(there)]!r}, none of {_some(missing)};"
            " give more rows in num_train, or another seed"
        )
    if missing:
        print(f"no training row of the classes {_some(missing)}: raise num_train for them")


def _digest(split, rows, names, one_in):
    """Digest some rows; one in so many keeps its words for a closer look, none if that is None."""
    texts, labels = rows.iloc[:, 0].astype(object), rows.iloc[:, 1].astype(object)
    texts = texts.fillna("").str.strip()
    labels = labels.map(names) if names else labels
    hashes = pd.util.hash_array(texts.to_numpy(dtype=object), categorize=False)
    block = pd.DataFrame({"split": split, "text": hashes, "blank": texts == ""})
    block["label"] = labels.astype(object).where(labels.notna(), None)
    if one_in:
        ends = (texts.str[:200] + " " + texts.str[-100:]).str.casefold()
        ends = ends.str.replace(r"[\W_]+", "", regex=True)
        block["alike"] = pd.util.hash_array(ends.to_numpy(dtype=object), categorize=False)
        block["words"] = texts.where(block["text"] % one_in == 0, None)
    return block


def _check_labels(usable, column, found):
    every = pd.concat(usable.values())
    if not len(every):
        raise DatasetError(f"no row has a text and a value in the column {column!r}")
    counts = every["label"].value_counts()
    if len(counts) < 2:
        raise DatasetError(
            f"the column {column!r} holds {counts.index[0]!r} in every row;"
            " a classifier needs two classes or more"
        )
    once = every[every["label"].isin(counts[counts == 1].index)]
    more = f", and {len(once) - 1} more classes" if len(once) > 1 else ""
    wrong = [(once, f"occurs there alone{more}; add rows of it, or take it out")]
    for split, rows in usable.items():
        unknown = rows[~rows["label"].isin(set(usable["train"]["label"]))]
        missing = f"of the split {split!r} does not occur in 'train'"
        wrong.append((unknown, f"{missing}; add rows of it there, or take it out"))
    for rows, what in wrong:
        if len(rows):
            place, label = _where(rows[:1], found), rows["label"].iloc[0]
            raise DatasetError(f"{place}, column {column!r}: the class {label!r} {what}")


def _where(rows, found):
    """Name the places of the first of the rows."""
    first = rows[:SHOWN]
    return _some(list(map(found.place, first["split"], first["row"])), len(rows))


def _read_by_the_model(settings, every):
    """Notes on texts that are cut, and on tokens that a tokenizer does not know."""
    from transformers import AutoTokenizer  # heavy

    texts = every["words"].dropna()
    texts = list(texts.sample(min(SAMPLE, len(texts)), random_state=0))
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    tokens = tokenizer(texts, verbose=False)["input_ids"]
    share = sum(len(one) > settings.max_length for one in tokens) / len(texts)
    notes = [
        f"{share:.1%} of {len(texts)} texts are longer than max_length, {settings.max_length} tokens,"
        f" and are {LONG_TEXTS[settings.long_texts]}"
    ]
    unknown = sum(one.count(tokenizer.unk_token_id) for one in tokens) / sum(map(len, tokens))
    if unknown > MANY_UNKNOWN:
        notes.append(
            f"the model does not know {unknown:.0%} of the tokens: it was made for another language; take a"
            " multilingual one, such as -p model_name=sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
        )
    return notes


def _some(values, number=None):
    more = (number or len(values)) - SHOWN
    return ", ".join(values[:SHOWN]) + (f" and {more} more" if more > 0 else "")
