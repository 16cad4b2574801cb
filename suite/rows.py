"""The one way in which a data set is read: its texts and classes, once, into clean Parquet files."""

import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from suite.errors import SourceError, UserError
from suite.files import ENDINGS, check_kind, kind_of, path_of, read_table, schema_of
from suite.hub import fetch_dataset
from suite.names import (
    PACKAGED_DATASETS,
    cache_folder,
    packaged_dataset,
    refuse_unless_hub_id,
    split_hub_name,
)
from suite.runs import file_stamps

# A folder with more in it is no data set, but somebody's home or disk.
MOST_FILES = 10_000
SPLITS = ("train", "validation", "test")
# Copies that editors and systems keep, such as .ipynb_checkpoints, __MACOSX and ~$rows.csv.
HIDDEN = re.compile(r"/(\.|__|~\$)")
# What `load_dataset` takes for the name of a split.
WORDS = {"train": "train training", "validation": "validation valid dev val"}
WORDS |= {"test": "test testing eval evaluation"}
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+|inf)", re.IGNORECASE)


class DatasetError(UserError):
    """Rows that no classifier can be trained on; the message names file, row and column."""


@dataclass(frozen=True)
class Rows:
    """A data set that was read.

    files: {split: Parquet file}, with the two columns of the settings: text, and the class as text or
        as a ClassLabel; no row is left out; a missing text is "", a missing class null
    parts: {split: [(name of a file, rows in it), ...]}
    notes: what a reader should know of how it was read, a sentence each
    """

    files: dict
    parts: dict
    notes: list

    def place(self, split, row):
        """Return "FILE, row N" of a row, numbered from 0 in its split."""
        for name, size in self.parts[split]:
            if row < size:
                return f"{name}, row {row + 1}"
            row -= size
        raise IndexError(row)


def check_source(dataset_name):
    """Raise SourceError if nothing that can be read lies at a name; looks at no row, asks no network."""
    if split_hub_name(dataset_name):
        refuse_unless_hub_id("dataset_name", dataset_name)
    elif dataset_name not in PACKAGED_DATASETS:
        _local_files(dataset_name)


def find_rows(settings):
    """Return the Rows of a data set; what was read before with the same settings is not read again.

    Raises SourceError if it cannot be read, DatasetError if a column holds lists, texts that are numbers,
    or classes that are numbers and not whole.
    """
    name, columns = settings.dataset_name, (settings.text_column, settings.label_column)
    if name in PACKAGED_DATASETS and columns == ("text", "label"):
        from pyarrow.parquet import ParquetFile

        file = packaged_dataset(name)
        parts = {"train": [("train", ParquetFile(file).metadata.num_rows)]}
        return Rows({"train": str(file)}, parts, notes=[])
    code = [Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in ("files", "rows")]
    stamp = [file_stamps("dataset", name), name, *columns, settings.encoding, code]
    folder = cache_folder() / f"rows-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]}"
    if not (folder / "about.json").is_file():
        _read(settings, folder)
    about = json.loads((folder / "about.json").read_text("utf-8"))
    files = {split: str(folder / f"{split}.parquet") for split in about["parts"]}
    return Rows(files, about["parts"], about["notes"])


def _read(settings, folder):
    """Read a data set, and write `folder`. Holds a block of the rows in memory."""
    import pyarrow as pa

    tables, notes = _tables(settings)
    parts, places, label_column = {}, {}, settings.label_column
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    building = folder.with_name(f".{os.getpid()}-{folder.name}")
    building.mkdir(exist_ok=True)
    try:
        for split, of_split in tables.items():
            sizes = Counter()
            with pa.ipc.new_stream(building / f"{split}.arrow", schema) as file:
                for part, table in of_split:
                    for texts, labels in _blocks(table, settings, part):
                        file.write(pa.record_batch([texts, labels], schema))
                        for row, label in enumerate(labels, start=sizes.total()):
                            places.setdefault(label, (split, row))
                        sizes[part] += len(labels)
            parts[split] = list(sizes.items())
        classes = _whole_numbers(places, Rows({}, parts, notes), label_column)
        named = [table.class_names.get(label_column) for _, table in chain(*tables.values())]
        if names := named[0] if all(other == named[0] for other in named) else None:
            classes = {name: number for number, name in enumerate(names)}
        schema = schema_of(settings.text_column, label_column, names)
        for split in parts:
            _write(building / split, schema, classes)
        about = json.dumps({"parts": parts, "notes": notes})
        (building / "about.json").write_text(about, encoding="utf-8")
        with suppress(OSError):  # another process was faster
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _tables(settings):
    """Return ({split: [(name of a part, Table), ...]}, notes) of a data set."""
    dataset_name, columns = settings.dataset_name, (settings.text_column, settings.label_column)
    files, own = _files(dataset_name), os.path.exists(path_of(dataset_name))
    notes = [f"{file.name} is left out: its name tells no split" for file in files.pop(None, [])]
    tables = {}
    for split, file in [(name, file) for name in SPLITS for file in files.get(name, [])]:
        try:
            table = read_table(file, columns, settings.encoding)
        except SourceError as error:
            raise SourceError(f"dataset_name: {error}") from None
        if split == "test" and columns[0] in table.columns and columns[1] not in table.columns:
            notes.append(f"{file.name} is left out: it has no column {columns[1]!r}")
            continue
        _check_columns(table, settings, file.name if own else dataset_name)
        part = file.name if path_of(dataset_name).is_file() else split
        tables.setdefault(split, []).append((part, table))
        notes += table.notes
    if "train" not in tables:
        raise SourceError(f"{dataset_name!r} has no split 'train'; it has {', '.join(files)}")
    return tables, notes


def _check_columns(table, settings, name):
    """Raise SourceError unless a table has both columns."""
    for parameter in ("text_column", "label_column"):
        if (column := getattr(settings, parameter)) not in table.columns:
            cells = [str(cell)[:40] for cell in table.columns[:20]]
            row = any(len(str(cell).split()) > 3 or str(cell).isdecimal() for cell in table.columns)
            hint = "; if that is a row, it has no header line: put one above it" if row else ""
            raise SourceError(
                f"{parameter}: {name!r} has no column {column!r}; it has {', '.join(cells)}{hint}"
            )


def _blocks(table, settings, part):
    """Yield (texts, labels) of some thousand rows of a table as text; a missing text is "", a class None."""
    columns = settings.text_column, settings.label_column
    at = [table.columns.index(name) for name in columns]
    classes, number, words = table.class_names.get(columns[1]), None, False
    texts, labels, size = [], [], 0
    try:
        for row, values in enumerate(table.rows(), start=1):
            cells = [values[place] for place in at]
            for name, value in zip(columns, cells, strict=True):
                if isinstance(value, list | dict | tuple):
                    kind = "a list" if isinstance(value, list) else "a record"
                    hint = "a text and a class are single values"
                    if kind == "a list" and name == columns[1]:
                        hint = "for several labels per text see chapter 7"
                    raise DatasetError(f"{part}, row {row}, column {name!r} holds {kind}; {hint}")
            text, label = map(_as_text, cells)
            if isinstance(cells[0], int | float) or NUMBER.fullmatch(text.strip()):
                number = number or text
            elif text.strip():
                words = True
            if classes and isinstance(cells[1], int):
                label = classes[cells[1]] if 0 <= cells[1] < len(classes) else ""
            texts.append(text)
            labels.append(label.strip() or None)
            size += len(text)
            if len(texts) == 10_000 or size > 2**28:
                yield texts, labels
                texts, labels, size = [], [], 0
        yield texts, labels
    except (ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        said = f"{settings.dataset_name!r} cannot be read: {' '.join(str(error).split())}"
        raise SourceError(f"dataset_name: {said}") from None
    if number and not words:
        raise DatasetError(
            f"{part}, column {columns[0]!r} holds numbers, such as {number}, and no texts;"
            " name the column with the texts in text_column"
        )


def _as_text(value):
    """Return a value as text, "" if it is missing."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _whole_numbers(places, found, column):
    """Return {class: name}, where all are numbers 1 for 1.0; refuse numbers that are not whole.

    places: {class: split and number of its first row}
    """
    classes = {label: label for label in places if label is not None}
    if all(NUMBER.fullmatch(label) for label in classes):
        for label in classes:
            if not re.fullmatch(r"[-+]?\d+(\.0*)?", label):
                raise DatasetError(
                    f"{found.place(*places[label])}, column {column!r} holds {label};"
                    " a class is a word or a whole number"
                )
            classes[label] = label.partition(".")[0]
    return classes


def _write(path, schema, classes):
    """Write the rows of `path`.arrow, which goes, with their final classes to `path`.parquet."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    read = path.with_suffix(".arrow")
    with pa.memory_map(str(read)) as source, ParquetWriter(f"{path}.parquet", schema) as file:
        for batch in pa.ipc.open_stream(source):
            labels = [classes.get(label) for label in batch["label"].to_pylist()]
            file.write_batch(pa.record_batch([batch["text"], labels], schema))
    read.unlink()


def _files(dataset_name):
    """Return {split: files} of a data set; under None those whose names tell no split."""
    if dataset_name in PACKAGED_DATASETS:
        return {"train": [packaged_dataset(dataset_name)]}
    if split_hub_name(dataset_name):
        splits = fetch_dataset(dataset_name).items()
        return {n: [Path(file["filename"]) for file in rows.cache_files] for n, rows in splits}
    return _local_files(dataset_name)


def _local_files(dataset_name):
    """Return what `_files` does of a file or a folder."""
    path = path_of(dataset_name)
    try:
        if os.path.isfile(path):
            check_kind(path)
            return {"train": [path]}
        if os.path.isdir(path):
            return _files_of_folder(path, dataset_name)
    except SourceError as error:
        raise SourceError(f"dataset_name: {error}") from None
    refuse_unless_hub_id("dataset_name", dataset_name)


def _files_of_folder(folder, dataset_name):
    """Files named after their splits, or lying in folders that are, or what `save_to_disk` wrote."""
    if (folder / "state.json").is_file():
        return {"train": _arrow_files(folder, dataset_name)}
    saved = sorted(state.parent for state in folder.glob("*/state.json"))
    if saved and (folder / "dataset_dict.json").is_file():
        return {split.name: _arrow_files(split, dataset_name) for split in saved}
    inside = sorted(islice(folder.rglob("*"), MOST_FILES + 1))
    shown = [f for f in inside if not HIDDEN.search(f"/{f.relative_to(folder).as_posix()}")]
    files = [f for f in shown if kind_of(f) not in (None, "arrow") and os.path.isfile(f)]
    reason = f"no file that ends in {', '.join(ENDINGS)}"
    if len(inside) > MOST_FILES:
        reason = f"more than {MOST_FILES} files and folders; give one that holds the data set and nothing else"
    if not files or len(inside) > MOST_FILES:
        raise SourceError(f"the folder {dataset_name!r} holds {reason}")
    found = {}
    for file in files:
        found.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    return {"train": files} if set(found) == {None} else found


def _split_of(path):
    """Return the split that a path names, in its last part that names one; None if no part does."""
    for part in reversed(path.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, named in WORDS.items():
            if set(words) & set(named.split()):
                return split
    return None


def _arrow_files(split, dataset_name):
    """Return the files of a split that `save_to_disk` wrote; all lie in its folder."""
    try:
        state = json.loads((split / "state.json").read_text("utf-8"))
        names = [file["filename"] for file in state["_data_files"]]
        if names and all(Path(name).name == name and (split / name).is_file() for name in names):
            return [split / name for name in names]
        reason = "a file that it names is not there"
    except (OSError, ValueError, KeyError, TypeError):
        reason = "it is not what save_to_disk writes"
    raise SourceError(f"{dataset_name!r} cannot be read: {split.name}/state.json: {reason}")
