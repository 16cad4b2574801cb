"""What many tests need: lessons that run in their process, and Python in one of its own."""

import linecache
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat

from suite.chapters import ROOT, all_chapters, lesson
from suite.rows import find_rows
from suite.runs import is_made_by, made_by, run_folder


def chapter(number):
    """Return the path of the chapter whose name begins with a number such as "04"."""
    (path,) = [path for path in all_chapters() if path.stem.startswith(number)]
    return path


def cells_of(path):
    """Return the cells of a notebook by their ids."""
    return {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}


def prose(path):
    """Return the text of a notebook, without its code."""
    cells = cells_of(path).values()
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def run_here(number, settings, until=None):
    """Run the lesson of a chapter in this process, up to the cell `until`; return its names."""
    stem = chapter(number).stem
    names = {"settings": settings, "__name__": stem}
    for cell, source in lesson(chapter(number)).items():
        file = f"<{stem}, {cell}>"
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        exec(compile(source, file, "exec"), names)
        if cell == until:
            return names
    plt.close("all")
    assert until is None, f"{stem} has no cell {until}"
    return names


def rows_of(settings):
    """Return the rows that chapter 01 makes with these settings, and leave them in `run_dir`."""
    from datasets import load_from_disk

    folder = run_folder(settings) / "data"
    if not is_made_by(folder, made_by(settings, "data")):
        run_here("01", settings, until="save-data")
    return load_from_disk(folder)


def labelled_rows(settings):
    """Return all rows of a data set and their classes, loaded and cleaned as in chapter 01."""
    from datasets import load_dataset

    from helpers.data import clean, encode_labels

    columns = [settings.text_column, settings.label_column]
    files = find_rows(settings).files
    return encode_labels(clean(load_dataset("parquet", data_files=files), *columns))


def train(product, settings):
    """Train a model in this process, "model" as chapter 04 does it or "trainer" as chapter 08; return its folder."""
    rows_of(settings)
    run_here({"model": "04", "trainer": "08"}[product], settings, until="save-model")
    return run_folder(settings) / product


def make_here(monkeypatch):
    """Have earlier chapters and the roads run in this process: starting others is tested elsewhere."""
    from benchmarks import roads
    from suite import products

    def run_function(name, *arguments):
        return getattr(roads, name.partition(":")[2])(*arguments)

    monkeypatch.setattr(
        products, "_run", lambda path, settings, _: run_here(path.stem[:2], settings)
    )
    monkeypatch.setattr(roads, "run_child", run_function)


def printed(cell, name="stdout"):
    """What a cell has written to stdout or stderr; a kernel may send it in pieces."""
    outputs = cell.get("outputs", [])
    return "".join(output.text for output in outputs if output.get("name") == name)


def run_python(*arguments, cwd=ROOT, code=0, **options):
    """Run Python in a process of its own, which has to end with `code`; return what it said."""
    command, options = [sys.executable, *map(str, arguments)], {"timeout": 900, **options}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)
    assert done.returncode == code, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def one_line(*parts):
    """A check for `pytest.raises`: the message is a single line that holds these parts."""

    def check(error):
        said = str(error)
        assert "\n" not in said and all(part in said for part in parts), said
        return True

    return check
