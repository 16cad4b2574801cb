"""The one way in which a data set is read: its texts and classes, once, into clean Parquet files."""

import hashlib
import json
import math
import os
import re
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from suite.errors import SourceError, UserError
from suite.files import ENDINGS, Table, check_kind, kind_of, path_of, read_table
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
WHOLE = re.compile(r"([-+]?\d+)\.0+")


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
    name = settings.dataset_name
    if name in PACKAGED_DATASETS and (settings.text_column, settings.label_column) == (
        "text",
        "label",
    ):
        from pyarrow.parquet import ParquetFile

        file = packaged_dataset(name)
        return Rows(
            {"train": str(file)}, {"train": [("train", ParquetFile(file).metadata.num_rows)]}, []
        )
    stamp = [file_stamps("dataset", name), name, settings.text_column, settings.label_column]
    stamp += [settings.encoding, Path(__file__).read_text("utf-8")]
    stamp.append(Path(__file__).with_name("files.py").read_text("utf-8"))
    folder = cache_folder() / f"rows-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]}"
    if not (folder / "about.json").is_file():
        _read(settings, folder)
    about = json.loads((folder / "about.json").read_text("utf-8"))
    files = {split: str(folder / f"{split}.parquet") for split in about["parts"]}
    return Rows(files, about["parts"], about["notes"])


def _read(settings, folder):
    """Read a data set, and write `folder`. Holds the classes in memory, and a block of the texts."""
    import pyarrow as pa

    schema = pa.schema([("text", pa.string())])
    parts, labels, names, notes = {}, {}, [], []
    building = folder.with_name(f".{os.getpid()}-{folder.name}")
    building.mkdir(exist_ok=True)
    try:
        with ExitStack() as files:
            texts = {}
            for split, part, table in _tables(settings, notes):
                if split not in texts:
                    labels[split], parts[split] = [], []
                    file = pa.ipc.new_file(building / f"{split}.arrow", schema)
                    texts[split] = files.enter_context(file)
                before = len(labels[split])
                for block in _blocks(table, settings, part):
                    texts[split].write(pa.record_batch([block[0]], schema))
                    labels[split].extend(block[1])
                parts[split].append((part, len(labels[split]) - before))
                names.append(table.class_names.get(settings.label_column))
                notes += table.notes
        if "train" not in parts:
            raise SourceError(
                f"{settings.dataset_name!r} has no split 'train'; it has {', '.join(parts)}"
            )
        about = {"parts": {split: parts[split] for split in SPLITS if split in parts}}
        about["notes"] = notes
        _settle_labels(labels, Rows({}, about["parts"], notes), settings.label_column)
        same = names[0] if all(other == names[0] for other in names) else None
        for split in about["parts"]:
            _write(building / split, settings, labels[split], same)
        (building / "about.json").write_text(json.dumps(about), encoding="utf-8")
        with suppress(OSError):  # another process was faster
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _tables(settings, notes):
    """Yield (split, name of the part, Table) of a data set."""
    columns, name = (settings.text_column, settings.label_column), settings.dataset_name
    if name in PACKAGED_DATASETS:
        yield "train", "train", _with_columns(read_table(packaged_dataset(name)), settings, name)
        return
    if split_hub_name(name):
        yield from _hub_tables(settings)
        return
    for split, files in _local_files(name).items():
        for file in files:
            if split is None:
                notes.append(f"{file.name} is left out: its name tells no split")
                continue
            try:
                table = read_table(file, columns, settings.encoding)
            except SourceError as error:
                raise SourceError(f"dataset_name: {error}") from None
            if split == "test" and columns[0] in table.columns and columns[1] not in table.columns:
                notes.append(f"{file.name} is left out: it has no column {columns[1]!r}")
            else:
                place = file.name if path_of(name).is_file() else split
                yield split, place, _with_columns(table, settings, file.name)


def _hub_tables(settings):
    for split, rows in fetch_dataset(settings.dataset_name).items():
        if split in SPLITS:
            kinds = {name: getattr(kind, "names", None) for name, kind in rows.features.items()}
            classes = {name: names for name, names in kinds.items() if names}
            wanted = [
                n for n in rows.column_names if n in (settings.text_column, settings.label_column)
            ]
            part = rows.select_columns(wanted or rows.column_names[:1]).with_format(None)

            def values(part=part, wanted=wanted):
                for batch in part.iter(10_000):
                    yield from zip(*(batch[name] for name in wanted), strict=True)

            names = wanted if len(wanted) == 2 else rows.column_names
            table = Table(names, values, classes)
            yield split, split, _with_columns(table, settings, settings.dataset_name)


def _with_columns(table, settings, name):
    """Return a table that has both columns; SourceError if it has not."""
    for parameter in ("text_column", "label_column"):
        if (column := getattr(settings, parameter)) not in table.columns:
            cells = [str(cell)[:40] for cell in table.columns[:20]]
            row = any(len(str(cell).split()) > 3 or str(cell).isdecimal() for cell in table.columns)
            hint = "; if that is a row, it has no header line: put one above it" if row else ""
            raise SourceError(
                f"{parameter}: {name!r} has no column {column!r}; it has {', '.join(cells)}{hint}"
            )
    return table


def _blocks(table, settings, part):
    """Yield (texts, labels) of some thousand rows of a table as text; a missing text is "", a class None."""
    try:
        yield from _checked_blocks(table, settings, part)
    except (ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        said = f"{settings.dataset_name!r} cannot be read: {' '.join(str(error).split())}"
        raise SourceError(f"dataset_name: {said}") from None


def _checked_blocks(table, settings, part):
    names = settings.text_column, settings.label_column
    at = [table.columns.index(name) for name in names]
    classes, texts, labels, number = table.class_names.get(names[1]), [], [], None
    words, size = False, 0
    for row, values in enumerate(table.rows(), start=1):
        text, label = (values[place] for place in at)
        for name, value in zip(names, (text, label), strict=True):
            if isinstance(value, list | dict | tuple):
                kind = "a list" if isinstance(value, list) else "a record"
                hint = "a text and a class are single values"
                if kind == "a list" and name == names[1]:
                    hint = "for several labels per text see chapter 7"
                raise DatasetError(f"{part}, row {row}, column {name!r} holds {kind}; {hint}")
        text, is_number = _as_text(text)
        number = text if is_number and number is None else number
        words = words or bool(text and text.strip() and not is_number)
        texts.append(text or "")
        if classes and isinstance(label, int):
            label = classes[label] if 0 <= label < len(classes) else None
        label = _as_text(label)[0]
        labels.append(label.strip() or None if label else None)
        size += len(texts[-1])
        if len(texts) == 10_000 or size > 2**28:
            yield texts, labels
            texts, labels, size = [], [], 0
    yield texts, labels
    if number is not None and not words:
        raise DatasetError(
            f"{part}, column {names[0]!r} holds numbers, such as {number}, and no texts;"
            " name the column with the texts in text_column"
        )


def _as_text(value):
    """Return (a value as text, or None if it is missing; whether it is a number)."""
    if isinstance(value, str):
        return value, bool(NUMBER.fullmatch(value.strip()))
    if value is None or isinstance(value, float) and math.isnan(value):
        return None, False
    if isinstance(value, bytes):
        return value.decode("utf-8"), False
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value), isinstance(value, int | float)


def _settle_labels(labels, found, column):
    """Call 1.0 the class 1 where all classes are numbers; refuse numbers that are not whole."""
    different = set().union(*labels.values()) - {None}
    if not all(NUMBER.fullmatch(label) for label in different):
        return
    broken = {label for label in different if not re.fullmatch(r"[-+]?\d+(\.0*)?", label)}
    for split, of_split in labels.items():
        for row, label in enumerate(of_split):
            if label in broken:
                raise DatasetError(
                    f"{found.place(split, row)}, column {column!r} holds {label}; a class is a word or a whole number"
                )
            if label and (match := WHOLE.fullmatch(label)):
                of_split[row] = match[1]


def _write(path, settings, labels, class_names):
    """Write `path`.parquet, the texts of `path`.arrow beside their labels, and remove that file."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    names, about, kind = [settings.text_column, settings.label_column], None, pa.string()
    if class_names:
        features = {names[0]: {"dtype": "string", "_type": "Value"}}
        features[names[1]] = {"names": class_names, "_type": "ClassLabel"}
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        numbers = {name: number for number, name in enumerate(class_names)}
        labels, kind = [numbers.get(label) for label in labels], pa.int64()
    schema = pa.schema([(names[0], pa.string()), (names[1], kind)], about)
    written = path.with_suffix(".arrow")
    with pa.memory_map(str(written)) as source, ParquetWriter(f"{path}.parquet", schema) as file:
        reader, start = pa.ipc.open_file(source), 0
        for number in range(reader.num_record_batches):
            texts = reader.get_batch(number).column(0)
            part = pa.array(labels[start : start + len(texts)], kind)
            file.write_batch(pa.record_batch([texts, part], schema))
            start += len(texts)
    written.unlink()


def _local_files(dataset_name):
    """Return {split: files} of a file or a folder; under None those whose names tell no split."""
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
    raise SourceError(f"dataset_name: {dataset_name!r} lies on the Hub")


def _files_of_folder(folder, dataset_name):
    """Files named after their splits, or lying in folders that are, or what `save_to_disk` wrote."""
    saved = [folder] if (folder / "state.json").is_file() else []
    if (folder / "dataset_dict.json").is_file():
        saved = sorted(state.parent for state in folder.glob("*/state.json"))
    if saved:
        return {
            "train" if split == folder else split.name: _arrow_files(split, dataset_name)
            for split in saved
        }
    inside = sorted(islice(folder.rglob("*"), MOST_FILES + 1))
    shown = [f for f in inside if not HIDDEN.search(f"/{f.relative_to(folder).as_posix()}")]
    files = [f for f in shown if kind_of(f) not in (None, "arrow") and os.path.isfile(f)]
    reason = None
    if len(inside) > MOST_FILES:
        reason = f"more than {MOST_FILES} files and folders; give one that holds the data set and nothing else"
    elif not files:
        reason = f"no file that ends in {', '.join(ENDINGS)}"
    if reason:
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
