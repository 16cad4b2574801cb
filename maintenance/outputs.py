"""Store what the chapters print."""

import ast
import base64

import nbformat

from suite.chapters import ROOT, all_chapters
from suite.runner import run_chapters, table
from suite.runs import run_folder
from suite.settings import Settings, parameters_cell


def refresh():
    """Run every chapter in one clean run and store what it printed."""
    for path in all_chapters():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.id == "parameters":
                names = [statement.target.id for statement in ast.parse(cell.source).body]
                cell.source = parameters_cell(names)
        nbformat.write(notebook, path)
    metrics = run_chapters(all_chapters(), {})
    for path in all_chapters():
        executed = nbformat.read(run_folder(Settings()) / path.name, as_version=4)
        nbformat.write(stored_form(executed), path)
    save_picture()
    print(table(metrics))


def save_picture(language="en"):
    """Write the picture of a README: the figure that chapter 05 draws of model and baselines."""
    cells = nbformat.read(all_chapters(language)[4], as_version=4).cells
    cell = next(cell for cell in cells if cell.id == "draw-baselines")
    name = "baselines.png" if language == "en" else f"baselines.{language}.png"
    (ROOT / "images" / name).write_bytes(base64.b64decode(cell.outputs[0].data["image/png"]))


def stored_form(notebook):
    """Strip what papermill and the clock put into an executed notebook."""
    kept = ("kernelspec", "language_info", "suite")
    notebook.metadata = {name: notebook.metadata[name] for name in kept}
    notebook.metadata["language_info"].pop("version", None)
    for cell in notebook.cells:
        cell.metadata = {
            name: value
            for name, value in cell.metadata.items()
            if name in ("tags", "reason", "alt", "share") and value
        }
    nbformat.validate(notebook)
    return notebook
