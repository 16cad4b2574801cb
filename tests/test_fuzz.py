"""Whatever stands in a parameter or a table: it is taken, or refused in one line. Found by hypothesis."""

import csv
import io
import json
from time import process_time

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lessons import labelled_rows
from pyarrow.parquet import read_table
from transformers import AutoTokenizer

from conftest import SMOKE
from helpers.data import split, tokenize
from suite.check import check_dataset
from suite.errors import UserError
from suite.resolve import find_model
from suite.rows import find_rows
from suite.settings import HELD_OUT, PARAMETERS, Settings
from suite.start import check_values

EXAMPLES = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


STARTED = process_time()  # what it took to start Python and load the libraries


def refused(call, *arguments, **options):
    """Call; return its result, or None if it was refused in one line. Anything else is a fault."""
    start = process_time()
    try:
        return call(*arguments, **options)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        assert len(str(error)) < 2000
    finally:
        assert process_time() - start < STARTED


names = st.sampled_from(sorted(PARAMETERS)) | st.text(max_size=20)
paths = ["../..", "/", ".", "~", "none", "a/b", "a/b@c", "C:\\x", "\\\\host\\x", "a\0b"]
values = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    st.integers(min_value=-2, max_value=600),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
    st.sampled_from(paths),
)


@EXAMPLES
@given(st.dictionaries(names, values, max_size=4))
def test_any_parameters(given_values):
    taken = refused(check_values, given_values, with_rows=False)
    assert taken is None or isinstance(taken, Settings)


words = ["", " ", "good", "bad", "0", "1", "1.0", "nan", "NA", "True", '"', "a,b", "a\nb", "\x00"]
cells = st.text(max_size=12) | st.sampled_from(words)
tables = st.lists(st.tuples(cells, cells), min_size=0, max_size=40)
separators = st.sampled_from([",", ";", "\t", "|"])
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
endings = st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".parquet"])

# Enough rows of two classes that the faults among them decide what becomes of the file.
PADDING = [(f"review {n}", "good" if n % 2 else "bad") for n in range(60)]
TOKENIZER = AutoTokenizer.from_pretrained(find_model(Settings().model_name))


def take(folder, ending, content):
    """Check a new file, and take the steps of chapter 01 if it is taken."""
    file = folder / f"{len(list(folder.iterdir()))}{ending}"
    file.write_bytes(content)
    small = {"num_train": 8, "num_validation": 2, "num_test": 2, "dataset_name": str(file)}
    own = refused(check_values, {**SMOKE, **small})
    if own is not None:
        rows = split(labelled_rows(own), HELD_OUT)
        sizes = {"train": 8, "validation": 2, "test": 2}
        assert all(rows[name].num_rows >= size for name, size in sizes.items())
        assert all(text.strip() for text in rows["train"]["text"])
        tokenize(rows["train"][:], TOKENIZER, own.max_length)


@EXAMPLES
@given(rows=tables, separator=separators, encoding=encodings, quoting=st.booleans())
@example([("a", "1"), ("b", "good")], ",", "utf-8", True)
@example([("a\x1b[31m", "good")], ";", "utf-16", True)
def test_any_table(tmp_path, rows, separator, encoding, quoting):
    table = pd.DataFrame(PADDING + rows, columns=["text", "label"])
    content = io.StringIO()
    if quoting:
        table.to_csv(content, index=False, sep=separator)
    else:
        for row in [["text", "label"], *table.to_numpy().tolist()]:
            content.write(separator.join(row) + "\n")
    take(tmp_path, ".csv", content.getvalue().encode(encoding, errors="replace"))


def written(rows, ending, by_pandas, quoting):
    """The bytes of a file of these rows, as pandas or Python's own writer makes them."""
    table = pd.DataFrame(rows, columns=["text", "label"])
    if ending == ".parquet":
        return table.to_parquet()
    if ending == ".jsonl":
        lines = "\n".join(json.dumps(dict(zip(table, row, strict=True))) for row in rows)
        return (table.to_json(orient="records", lines=True) if by_pandas else lines).encode()
    file, separator = io.StringIO(), "\t" if ending == ".tsv" else ","
    if by_pandas:
        table.to_csv(file, index=False, sep=separator, quoting=quoting)
    else:
        writer = csv.writer(file, delimiter=separator, quoting=quoting)
        writer.writerows([table.columns, *rows])
    return file.getvalue().encode()


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
plain = st.text(letters, max_size=12) | st.sampled_from(
    [*words[:-1], "one\ntwo, three", 'say "yes"', "\r\n", ",", "\t", '""', "None", "0101", "\\"]
)


@pytest.mark.slow
@EXAMPLES
@given(
    rows=st.lists(st.tuples(plain, plain), max_size=30),
    ending=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    by_pandas=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_is_written_is_read(tmp_path, rows, ending, by_pandas, quoting):
    """Row for row, a class without the spaces around it; an empty one is missing."""
    rows = PADDING + rows
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}{ending}"
    file.write_bytes(written(rows, ending, by_pandas, quoting))
    own = Settings(dataset_name=str(file))
    read = read_table(find_rows(own).files["train"])
    assert read["text"].to_pylist() == [text for text, _ in rows]
    classes = [label.strip() or None for _, label in rows]
    assert read["label"].to_pylist() == classes
    try:
        report = check_dataset(own)
    except UserError as error:
        assert "occurs there alone" in str(error)
        return
    figures = report.splits.loc["train"]
    assert figures["rows"] == len(rows)
    assert figures["no label"] == classes.count(None)
    assert figures["no text"] == sum(not text.strip() for text, _ in rows)
    kept = [row for rows in labelled_rows(own).values() for row in rows["text"]]
    assert len(kept) == figures["usable"] and set(kept) <= {text for text, _ in rows}


@EXAMPLES
@given(content=st.binary(max_size=300), ending=endings)
def test_any_bytes(tmp_path, content, ending):
    take(tmp_path, ending, content)


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
records = st.dictionaries(st.sampled_from(["text", "label", "other"]), anything)


@EXAMPLES
@given(records=st.lists(records, max_size=20), lines=st.booleans())
def test_any_records(tmp_path, records, lines):
    rows = [{"text": text, "label": label} for text, label in PADDING] + records
    content = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    take(tmp_path, ".jsonl" if lines else ".json", content.encode())
