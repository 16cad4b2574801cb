"""Files of the reader's own disk: which kinds can be read, and what has to be known to read them."""

import codecs
import csv
import os
from functools import cache
from pathlib import Path

from suite.errors import SourceError

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
# Longer marks first: that of UTF-32 begins like that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def path_of(name):
    """Return a name as a path, with `~` for the home."""
    # Unlike Path.expanduser this takes the home of an unknown user for a plain name.
    return Path(os.path.expanduser(name))


def reading_options(path, columns=()):
    """Return (what `load_dataset` has to know to read the file, a note for its reader)."""
    builder = BUILDERS[path.suffix.lower()]
    if builder == "parquet":
        return {}, ""
    encoding, line = _encoding(str(path), path.stat().st_mtime_ns)
    if builder == "json":
        if encoding not in ("utf-8", "utf-8-sig"):
            where = f" (line {line})" if line else ""
            raise SourceError(
                f"dataset_name: {path.name} is not in UTF-8{where}, as JSON has to be; save it as UTF-8"
            )
        return ({"encoding": encoding} if encoding != "utf-8" else {}), ""
    options = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    with open(path, encoding=encoding, newline="") as file:
        header = next(csv.reader([file.readline(1_000_000)]), [])
    if len(header) == 1 and not options:
        separator = max(";\t|", key=header[0].count)
        options = {"sep": separator} if separator in header[0] else {}
    if encoding != "utf-8":
        options["encoding"] = encoding
    if columns and _has_columns(path, options, columns):
        options["usecols"] = list(columns)
    if line is None:
        return options, ""
    name = "Western European (cp1252)" if encoding == "cp1252" else "Latin-1"
    note = f"{path.name} is not in UTF-8 (line {line}): read as {name}; if that is wrong, save it as UTF-8"
    return options, note


def _has_columns(path, options, columns):
    import pandas as pd  # heavy, and no parameter depends on it

    separator, encoding = options.get("sep", ","), options.get("encoding", "utf-8")
    first = pd.read_csv(path, sep=separator, encoding=encoding, nrows=1)
    # Where rows have a name before their first column, pandas would take that name for the column.
    return set(columns) <= set(first) and isinstance(first.index, pd.RangeIndex)


@cache
def _encoding(path, changed):
    """Return (encoding of a text file, number of the first line that is not UTF-8, or None).

    changed: its time of change, so that the answer is found anew when the file is another one.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding, None
    if b"\0" in head:
        raise SourceError(
            f"dataset_name: {Path(path).name} holds bytes that are no text; if it is UTF-16, save it as UTF-8"
        )
    line = _first_undecodable_line(path, "utf-8")
    if line is None:
        return "utf-8", None
    return ("latin-1" if _first_undecodable_line(path, "cp1252") else "cp1252"), line


def _first_undecodable_line(path, encoding):
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return number
    return None
