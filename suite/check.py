"""Look through a data set before anything slow: what breaks training, and what misleads."""

from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import pandas as pd

from suite.errors import SourceError, UserError
from suite.resolve import find_dataset, find_model

# What `load_dataset("csv")` takes at a time: types are found out for each block alone.
ROWS_A_BLOCK = 10_000
# Rows of which the tokens are counted.
SAMPLE = 1000
# A class with fewer rows is hardly learned, and its figures are chance.
FEW_ROWS = 10


class DatasetError(UserError):
    """Rows that no classifier can be trained on; the message names file, row and column."""


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
        notes = [f"- {note}" for note in self.notes] or ["- nothing to remark"]
        return "\n".join([self.splits.to_string(), "", self.classes.to_string(), "", *notes])


def check_dataset(settings):
    """Return a Report on the rows of a data set; takes seconds for hundreds of thousands of rows.

    Texts that differ from another in capitals, spaces and punctuation alone are judged by their first
    200 and last 100 characters, the share of too long ones by a sample. Raises what `read_rows` raises.
    """
    splits = read_rows(settings, look_closer=True)
    usable = usable_rows(splits)
    source = find_dataset(settings.dataset_name)
    table, seen = {}, pd.Series(dtype="uint64")
    for name in reversed(list(splits)):  # as chapter 01 does: a text of two splits stays in test
        rows = splits[name]
        texts = rows[~rows["blank"]]
        table[name] = {
            "rows": len(rows),
            "no text": int(rows["blank"].sum()),
            "no label": int(rows["label"].isna().sum()),
            "repeated": int(texts["text"].duplicated().sum()),
            "in another split": int(texts["text"].isin(seen).sum()),
            "usable": len(usable[name]),
        }
        seen = pd.concat([seen, texts["text"]])
    every = pd.concat(usable.values())
    counts = every["label"].value_counts()
    names = dict(enumerate(source.label_names or ()))
    classes = pd.DataFrame({"rows": counts, "share": (counts / len(every)).map("{:.1%}".format)})
    classes.index = [names.get(value, class_name(value)) for value in counts.index]
    notes = [source.note] if source.note else []
    notes += _faults(table, usable, every)
    notes.append(
        f"always answering {classes.index[0]!r} would be right for {classes['share'].iloc[0]} of the rows"
    )
    if rare := [str(name) for name in classes.index[counts.to_numpy() < FEW_ROWS]]:
        notes.append(f"fewer than {FEW_ROWS} rows: {_some(rare)}")
    notes.append(_truncated(settings, every))
    return Report(pd.DataFrame(table).T, classes, notes)


def _faults(table, usable, every):
    notes = []
    dropped = sum(figures["rows"] - figures["usable"] for figures in table.values())
    if dropped:
        notes.append(
            f"{dropped} rows are left out: no text, no label, or a text that was there before"
        )
    alike = every[every["alike"].duplicated(keep=False)]
    if len(alike):
        alike = alike.sort_values("alike")
        where = [f"{file} row {row}" for file, row in zip(alike["file"], alike.index, strict=True)]
        notes.append(
            f"{len(alike)} texts differ from another in capitals, spaces or punctuation alone ({_some(where)}):"
            " one may be trained on and the other tested with"
        )
    for name, rows in usable.items():
        if missing := set(usable["train"]["label"]) - set(rows["label"]):
            missing = _some(sorted(map(class_name, missing)))
            notes.append(f"no row in {name} of the classes {missing}")
    return notes


def read_rows(settings, look_closer=False):
    """Return {split: table} of a data set, its rows in their order, numbered from 1 in each file.

    Columns: `file`; `text`, a hash of the text without spaces around it; `blank`; `label`; and with
    `look_closer` also `alike`, a hash of what is left without capitals and punctuation, and
    `words`, the text itself for a sample of rows.

    Raises DatasetError if a column holds lists, the labels are words in one place and numbers in
    another, or numbers that are not whole; if there is one class alone, a class that has one row alone, or
    a class in validation or test that train does not have. SourceError if the data set cannot be read.
    """
    source = find_dataset(settings.dataset_name)
    columns = {"text_column": settings.text_column, "label_column": settings.label_column}
    parts = {}
    try:
        for split, file, first, rows in _blocks(source, settings.dataset_name, columns.values()):
            _check_names(rows.columns, settings)
            rows.index = range(first, first + len(rows))
            part = _digest(rows, columns, file, look_closer)
            parts.setdefault(split, []).append(part)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        said = f"{settings.dataset_name!r} cannot be read: {' '.join(str(error).split())}"
        raise SourceError(f"dataset_name: {said}") from None
    order = ("train", "validation", "test")
    splits = {name: pd.concat(parts[name]) for name in order if name in parts}
    _check_labels(splits, settings.label_column)
    return splits


def usable_rows(splits):
    """Return {split: rows that chapter 01 keeps}: with text and label, and each text once."""
    kept, seen = {}, pd.Series(dtype="uint64")
    for name in ("test", "validation", "train"):
        if name in splits:
            rows = splits[name]
            rows = rows[~rows["blank"] & rows["label"].notna()]
            rows = rows[~rows["text"].duplicated() & ~rows["text"].isin(seen)]
            seen = pd.concat([seen, rows["text"]])
            kept[name] = rows
    return {name: kept[name] for name in splits}


def _check_names(columns, settings):
    for parameter in ("text_column", "label_column"):
        if getattr(settings, parameter) not in columns:
            raise SourceError(
                f"{parameter}: {settings.dataset_name!r} has no column {getattr(settings, parameter)!r};"
                f" it has {', '.join(map(str, columns))}"
            )


def class_name(value):
    """Return the name that chapter 01 gives the class of this value: 2.0 is "2"."""
    return str(int(value) if isinstance(value, float) and value % 1 == 0 else value)


def _blocks(source, dataset_name, wanted):
    """Yield (split, file, number of the first row, rows as a table), some thousand rows at a time.

    wanted: names of columns, of which a CSV file may have one each
    """
    file = source.options.get("data_files")
    if not isinstance(file, str):
        yield from _loaded_blocks(source, dataset_name)
        return
    encoding = source.options.get("encoding", "utf-8")
    name = Path(file).name
    if source.path == "csv":
        first = 1
        separator = source.options.get("sep", ",")
        _check_header(file, separator, encoding, wanted)
        with pd.read_csv(file, sep=separator, encoding=encoding, chunksize=ROWS_A_BLOCK) as blocks:
            for rows in blocks:
                yield "train", name, first, rows
                first += len(rows)
        return
    if source.path == "json":
        with open(file, encoding=encoding) as opened:
            is_array = opened.read(64).lstrip().startswith("[")
        rows = pd.read_json(file, lines=not is_array, encoding=encoding, dtype=False)
        yield "train", name, 1, rows
        return
    yield "train", name, 1, pd.read_parquet(file)


def _check_header(file, separator, encoding, wanted):
    """Raise DatasetError if a column has its name twice: pandas would take the first, silently."""
    header = pd.read_csv(file, sep=separator, encoding=encoding, header=None, nrows=1, dtype=str)
    names = header.iloc[0].tolist()
    for name in wanted:
        if names.count(name) > 1:
            raise DatasetError(f"{Path(file).name} has two columns named {name!r}; rename one")


def _loaded_blocks(source, dataset_name):
    from datasets import exceptions, load_dataset  # heavy, and a single file does without

    try:
        dataset = load_dataset(source.path, **source.options)
    except exceptions.DatasetsError as error:
        raise ValueError(error.__cause__ or error) from None
    if "train" not in dataset:
        raise SourceError(f"{dataset_name!r} has no split 'train'; it has {', '.join(dataset)}")
    for split in ("train", "validation", "test"):
        if split in dataset:
            first = 1
            for rows in dataset[split].with_format("pandas").iter(batch_size=ROWS_A_BLOCK):
                yield split, split, first, rows
                first += len(rows)


def _digest(rows, columns, file, look_closer):
    texts, labels = rows[columns["text_column"]], rows[columns["label_column"]]
    for column, values in ((columns["text_column"], texts), (columns["label_column"], labels)):
        for row, value in values.items() if values.dtype == object else ():
            if pd.api.types.is_list_like(value):
                kind = "a record" if isinstance(value, dict) else "a list"
                hint = "a text and a class are single values"
                if kind == "a list" and column == columns["label_column"]:
                    hint = "for several labels per text see chapter 7"
                raise DatasetError(f"{file}, row {row}, column {column!r} holds {kind}; {hint}")
    if texts.notna().any() and texts.dtype.kind in "biuf":
        raise DatasetError(
            f"{file}, column {columns['text_column']!r} holds numbers, such as {texts.dropna().iloc[0]},"
            " and no texts; name the column with the texts in text_column"
        )
    texts = texts.astype(object).where(texts.notna(), "").astype(str).str.strip()
    labels = labels.astype(object)
    labels = labels.where(labels.map(lambda label: str(label).strip() != ""), None)
    part = pd.DataFrame(
        {
            "file": pd.Categorical([file] * len(rows)),
            "text": pd.util.hash_array(texts.to_numpy(dtype=object), categorize=False),
            "blank": (texts == "").to_numpy(),
            "label": labels.where(labels.notna(), None),
        },
        index=rows.index,
    )
    if look_closer:
        ends = (texts.str[:200] + " " + texts.str[-100:]).str.casefold()
        ends = ends.str.replace(r"[\W_]+", "", regex=True)
        part["alike"] = pd.util.hash_array(ends.to_numpy(dtype=object), categorize=False)
        part["words"] = texts.where(part["text"] % max(1, len(part) // SAMPLE) == 0, None)
    return part


def _check_labels(splits, column):
    usable = usable_rows(splits)
    every = pd.concat(usable.values())
    if not len(every):
        raise DatasetError(f"no row has a text and a value in the column {column!r}")
    kinds, counts = every["label"].map(_kind), every["label"].value_counts()
    usual = kinds.value_counts().index[0]
    others = f" holds {{label!r}}, but most rows hold {usual}; write all classes alike"
    _refuse_first(every[kinds != usual], column, others)
    if usual == "numbers":
        broken = every[every["label"].map(lambda value: value % 1 != 0)]
        _refuse_first(broken, column, " holds {label!r}; a class is a word or a whole number")
    if len(counts) < 2:
        raise DatasetError(
            f"the column {column!r} holds {class_name(counts.index[0])!r} in every row;"
            " a classifier needs two classes or more"
        )
    once = every[every["label"].isin(counts[counts == 1].index)]
    more = f", and {len(once) - 1} more classes" if len(once) > 1 else ""
    alone = f": the class {{name!r}} occurs there alone{more}; add rows of it, or take it out"
    _refuse_first(once, column, alone)
    for split, rows in usable.items():
        unknown = rows[~rows["label"].isin(set(usable["train"]["label"]))]
        missing = f": the class {{name!r}} of the split {split!r} does not occur in 'train'"
        _refuse_first(unknown, column, f"{missing}; add rows of it there, or take it out")


def _refuse_first(rows, column, what):
    """Raise DatasetError that names the first of the rows, if there is one, and says what is wrong."""
    for row, file, label in zip(rows.index, rows["file"], rows["label"], strict=True):
        said = what.format(label=label, name=class_name(label))
        raise DatasetError(f"{file}, row {row}, column {column!r}{said}")


def _kind(value):
    if isinstance(value, str):
        return "words"
    if isinstance(value, bool):
        return "True or False"
    return "numbers" if isinstance(value, Real) else f"values of type {type(value).__name__}"


def _truncated(settings, every):
    from transformers import AutoTokenizer  # heavy

    texts = every["words"].dropna()
    texts = list(texts.sample(min(SAMPLE, len(texts)), random_state=0))
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    lengths = [len(input_ids) for input_ids in tokenizer(texts, verbose=False)["input_ids"]]
    share = sum(length > settings.max_length for length in lengths) / len(texts)
    return (
        f"{share:.1%} of {len(texts)} texts are longer than max_length, {settings.max_length} tokens,"
        " and are cut"
    )


def _some(values, number=5):
    more = f" and {len(values) - number} more" if len(values) > number else ""
    return ", ".join(values[:number]) + more
