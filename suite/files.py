"""One file of the reader's own disk, read row by row: CSV, TSV, JSON, JSON Lines, Parquet, Arrow."""

import codecs
import csv
import gzip
import json
import os
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

from suite.errors import SourceError

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
ENDINGS = tuple(list(KINDS)[:-1])
# Longer marks first: that of UTF-32 begins like that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CONVERT = {
    ".xlsx": "convert it: pandas.read_excel({name!r}).to_csv({stem!r} + '.csv', index=False)",
    ".xls": "convert it: pandas.read_excel({name!r}).to_csv({stem!r} + '.csv', index=False)",
    ".feather": "convert it: pandas.read_feather({name!r}).to_parquet({stem!r} + '.parquet')",
    ".bz2": "unpack it: bunzip2 {name}",
    ".zip": "unpack it: python -m zipfile -e {name} {stem}",
}
# In Western European texts letters beyond ASCII stand alone or in pairs; in other scripts words are full of them.
FOREIGN = re.compile(rb"[\x80-\xff]{3,}")


# Stands for what cannot be decoded, and in no text, as it is half of a pair.
MARK = "\udfff"
codecs.register_error("mark", lambda error: (MARK, error.end))


@dataclass(frozen=True)
class Table:
    """What a file holds.

    columns: their names; rows: a function that yields each row as a list of values, anew at each call
    class_names: {column: names of the classes 0, 1, ...} where the file knows them
    notes: what a reader should know of how it is read
    """

    columns: list
    rows: object
    class_names: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)


def path_of(name):
    """Return a name as a path, with `~` for the home."""
    # Unlike Path.expanduser this takes the home of an unknown user for a plain name.
    return Path(os.path.expanduser(name))


def kind_of(path):
    """Return "csv", "json", "parquet" or "arrow" by the ending of a file's name, None of another."""
    name = path.name.lower()
    kind = KINDS.get(Path(name.removesuffix(".gz")).suffix)
    return kind if not name.endswith(".gz") or kind in ("csv", "json") else None


def check_kind(path):
    """Raise SourceError unless a file is of a kind that can be read."""
    if kind_of(path) in (None, "arrow"):
        hint = CONVERT.get(path.suffix.lower(), "").format(name=path.name, stem=path.stem)
        raise SourceError(
            f"{path.name!r} must end in one of {', '.join(ENDINGS)}{hint and '; ' + hint}"
        )


def read_table(path, columns, encoding="auto"):
    """Return the Table of a file.

    columns: those that are wanted; they tell a header from a row, and one separator from another

    A CSV or JSON file may be in UTF-8, in UTF-16 or UTF-32 with a byte order mark, in what `encoding`
    says, or in Western European. All values of a CSV file are text, as they stand there.
    Raises SourceError with one line that names the row if that cannot be.
    """
    try:
        if kind_of(path) == "csv":
            return _csv(path, columns, *encoding_of(path, encoding))
        if kind_of(path) == "json":
            return _json(path, *encoding_of(path, encoding))
        return _arrow(path, columns)
    except SourceError:
        raise
    except (OSError, EOFError, ValueError, RecursionError, csv.Error) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path.name} cannot be read: {said}") from None


def _open(path, mode, **options):
    return (gzip.open if path.suffix.lower() == ".gz" else open)(path, mode, **options)


def _lines(path, encoding, newline="", **options):
    with _open(path, "rt", encoding=encoding, newline=newline, **options) as file:
        yield from file


def check_encoding(name):
    """Raise SourceError unless Python knows an encoding."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise SourceError(
            f"encoding is {name!r}, which Python does not know; give 'auto' or one such as 'gb18030'"
        ) from None


def encoding_of(path, said="auto"):
    """Return (encoding of a text file, a note on it or "")."""
    if said != "auto":
        check_encoding(said)
        if line := _undecodable(path, said)[:1]:
            raise SourceError(
                f"{path.name} is not in {said} (line {line[0]}); set encoding to another"
            )
        return said, ""
    with _open(path, "rb") as file:
        head = file.read(4096)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding, ""
    if b"\0" in head:
        raise SourceError(
            f"{path.name} holds bytes that are no text; if it is UTF-16, save it as UTF-8"
        )
    if not (bad := _undecodable(path, "utf-8")):
        return "utf-8", ""
    where = f"{path.name} is not in UTF-8 (line {bad[0]})"
    with _open(path, "rb") as file:
        lines = [line for line in file if not line.isascii()]
    good = len(lines) - len(bad)
    if good > len(bad):
        raise SourceError(
            f"{where}, but {good} other lines with more than plain letters are; mend that line"
        )
    beyond = b"".join(lines)
    if sum(map(len, FOREIGN.findall(beyond))) > 0.2 * len(re.findall(rb"[\x80-\xff]", beyond)):
        from charset_normalizer import from_bytes  # what `requests` takes to tell encodings

        guess = from_bytes(beyond[:200_000]).best()
        like = f"it looks like {guess.encoding}: " if guess else ""
        raise SourceError(f"{where}; {like}set the parameter encoding, or save it as UTF-8")
    latin = bool(_undecodable(path, "cp1252"))
    name = "Latin-1" if latin else "Western European (cp1252)"
    note = f"{where}: read as {name}; if that is wrong, set encoding, or save it as UTF-8"
    return "latin-1" if latin else "cp1252", note


def _undecodable(path, encoding):
    """Return the numbers of the lines that are not in an encoding."""
    lines = _lines(path, encoding, newline="\n", errors="mark")
    return [number for number, line in enumerate(lines, start=1) if MARK in line]


def _csv(path, columns, encoding, note):
    csv.field_size_limit(2**31 - 1)
    first = next((line for line in _lines(path, encoding) if line.strip(" \t\r\n,;|")), "")
    said = re.fullmatch(r'"?sep=(.)"?\s*', first)  # a line that Excel reads
    usual = "\t,;|" if ".tsv" in path.name.lower() else ",;\t|"
    separators = [said[1]] if said else list(usual)
    opened = partial(_records, path, encoding, bool(said))
    headers = {sep: next(opened(delimiter=sep), (0, []))[1] for sep in separators}
    wanted = [sep for sep, names in headers.items() if set(columns) <= set(map(str.strip, names))]
    sep = wanted[0] if wanted else max(headers, key=lambda sep: len(headers[sep]))
    header = [name.strip() for name in headers[sep]]
    while header and not header[-1]:
        header.pop()
    if not header:
        raise SourceError(f"{path.name} cannot be read: it is empty")
    for other in separators if not wanted else ():
        for line, cells in islice(opened(delimiter=other), 1, 20):
            if set(columns) <= set(map(str.strip, cells)):
                raise SourceError(
                    f"{path.name}: its header stands in line {line}; remove the lines above it"
                )
    for name in columns:
        if header.count(name) > 1:
            raise SourceError(f"{path.name} has two columns named {name!r}; rename one")
    spaced = any(name.startswith(" ") for name in headers[sep][1:])
    if len(headers[sep]) == 1:
        sep = "\x1f"  # one column: what separates columns elsewhere is part of a text
    layouts = [{"strict": True}]
    if wanted and any('\\"' in line for line in _lines(path, encoding)):
        layouts.append({"strict": True, "escapechar": "\\", "doublequote": False})
    if wanted:
        layouts.append({"quoting": csv.QUOTE_NONE})
    label = header.index(columns[-1]) if wanted else None
    faults = []
    for layout in layouts:
        rows = partial(opened, delimiter=sep, skipinitialspace=spaced, **layout)
        fault, shift = _fault(rows(), len(header), label, sep)
        if not fault:
            break
        faults.append(fault)
    else:
        raise SourceError(f"{path.name}, {faults[0]}")
    notes, bare = [note] * bool(note), "quoting" in layout
    if bare:
        notes.append(f"{path.name}: quotes are read as they stand, since they do not come in pairs")
    return Table(header, partial(_csv_rows, rows, len(header), shift, bare), notes=notes)


def _records(path, encoding, skip_first, **layout):
    """Yield (number of its last line, fields) of each record, the header first; blank lines are none.

    In a file of one column `""` is a record: an empty text.
    """
    lines, started = _lines(path, encoding), False
    if skip_first:
        next(line for line in lines if line.strip())
    reader = csv.reader(lines, **layout)
    for record in reader:
        if any(cell.strip() for cell in record) or started and (len(record) > 1 or record == [""]):
            started = True
            yield reader.line_num + skip_first, record


def _fault(records, width, label, separator):
    """Return (what is wrong with a row, or ""; fields before the first column).

    Wrong is another number of fields than in the header, and a quoted field that takes other rows in.
    Names of the rows before the first column are right, as R writes them.
    """
    row, shifted, fault, classes, inner = 0, 0, None, set(), []
    try:
        for row, (line, record) in enumerate(islice(records, 1, None), start=1):
            size = len(record) if any(record) else width
            while size > width and not record[size - 1].strip():
                size -= 1
            if size != width:
                shifted += size == width + 1 and record[0].strip().isdecimal()
                fault = fault or (row, line, size)
            elif label is not None:
                classes.add("".join(record[label : label + 1]).strip())
            for cell in record:
                if cell.count("\n") > 1:
                    inner += [(row, text) for text in re.split(r"\r?\n", cell)[1:-1]]
    except csv.Error:
        said = f"row {row + 1}: its quotes do not end where a field ends; double those inside"
        return said, 0
    if fault and shifted == row:
        return "", 1
    if fault:
        row, line, size = fault
        fields = "1 field" if size == 1 else f"{size} fields"
        shown = "tab" if separator == "\t" else separator
        longer = "a text that holds one has to stand in quotes"
        said = f"row {row} (line {line}) has {fields} separated by {shown!r}, the header {width}"
        return f"{said}; {longer if size > width else 'add the rest'}", 0
    for number, text in inner if label is not None and width > 1 else ():
        fields = next(csv.reader([text], delimiter=separator), [])
        if len(fields) == width and fields[label].strip() in classes:
            said = f"row {number}: a quote opens there and takes other rows in; close or double it"
            return said, 0
    return "", 0


def _csv_rows(rows, width, shift, bare):
    """Yield the fields of each row; `bare` quotes are taken off fields that stand in a pair."""
    for _, record in islice(rows(), 1, None):
        record = (record + [""] * width)[shift : shift + width]
        if bare:
            record = [
                cell[1:-1].replace('""', '"') if re.fullmatch(r'"(.*)"', cell, re.DOTALL) else cell
                for cell in record
            ]
        yield record


def _json(path, encoding, note):
    if encoding not in ("utf-8", "utf-8-sig"):
        line = re.search(r" \(line \d+\)", note)
        raise SourceError(
            f"{path.name} is not in UTF-8{line[0] if line else ''}, as JSON has to be; save it as UTF-8"
        )
    names = list(dict.fromkeys(chain.from_iterable(_json_records(path, encoding))))

    def rows():
        return ([record.get(name) for name in names] for record in _json_records(path, encoding))

    return Table(names, rows)


def _json_records(path, encoding):
    """Yield the records of JSON Lines, or of one JSON value in whatever way pandas lays out a table."""
    with _open(path, "rt", encoding=encoding) as file:
        lines, row = (line for line in file if line.strip()), 0
        try:
            first, second = next(lines, ""), next(lines, None)
            if second is None or not _is_record(first):
                file.seek(0)
                records = _rows_of(json.load(file)) if first else []
            else:
                records = map(json.loads, chain([first, second], lines))
            for row, record in enumerate(records, start=1):
                if not isinstance(record, dict):
                    raise SourceError(f"{path.name}, row {row} is no record {{name: value, …}}")
                yield record
        except json.JSONDecodeError as error:
            raise SourceError(
                f"{path.name} cannot be read: row {row + 1}: {error.msg}; each line holds one record alone"
            ) from None


def _is_record(line):
    try:
        return not isinstance(json.loads(line), list)
    except json.JSONDecodeError:
        return False


def _rows_of(value):
    """Return the records of a JSON value: a list of them, columns by name, or such a list under a name."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    parts = list(value.values())
    if parts and all(isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts):
        parts = [[part[row] for row in parts[0]] for part in parts]
    even = all(isinstance(part, list) and len(part) == len(parts[0]) for part in parts)
    if even and len(parts) > 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]
    tables = [part for part in parts if isinstance(part, list) and part]
    tables = [part for part in tables if all(isinstance(row, dict) for row in part)]
    return tables[0] if len(tables) == 1 else [value]


def _arrow(path, columns):
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if kind_of(path) == "parquet":
        file = ParquetFile(path)
        schema, batches = file.schema_arrow, partial(file.iter_batches, 10_000)
    else:

        def opened():
            return pa.ipc.open_stream(pa.memory_map(str(path)))

        def batches(columns):
            return (batch.select(columns) for batch in opened())

        schema = opened().schema

    names = schema.names
    if set(columns) <= set(names):
        names = [name for name in names if name in columns]

    def rows():
        for batch in batches(columns=names):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    return Table(names, rows, class_names(schema))


def class_names(schema):
    """Return {column: names of the classes 0, 1, ...} that `datasets` has written into a schema."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    kinds = about.get("info", {}).get("features", {}).items()
    kinds = [(name, kind) for name, kind in kinds if isinstance(kind, dict)]
    return {name: kind["names"] for name, kind in kinds if kind.get("_type") == "ClassLabel"}


def schema_of(text_column, label_column, names=None):
    """Return the schema of texts and classes; with names `datasets` reads a ClassLabel."""
    import pyarrow as pa

    kind = pa.int64() if names else pa.string()
    schema = pa.schema({text_column: pa.string(), label_column: kind})
    features = {text_column: {"dtype": "string", "_type": "Value"}}
    features[label_column] = {"names": names, "_type": "ClassLabel"}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return schema.with_metadata(about) if names else schema
