"""Chapters in other clients' hands: nbconvert, `jupyter execute`, jupytext. Real commands, from another folder."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from conftest import SMOKE
from suite.chapters import all_chapters

LARGEST = 2_000_000  # bytes of a page; beyond, browsers and mail programs balk


def command(name, *arguments, cwd):
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("template", ["lab", "classic"])  # the usual pages, and those to print
def test_a_chapter_with_its_stored_outputs_is_a_page_that_a_mail_can_carry(template, tmp_path):
    options = ["--to", "html", "--output-dir", tmp_path, "--template", template]
    command("jupyter-nbconvert", *options, *all_chapters(), cwd=tmp_path)
    for path in all_chapters():
        page = tmp_path / f"{path.stem}.html"
        assert 100_000 < page.stat().st_size < LARGEST, path.stem
        text = page.read_text(encoding="utf-8")
        assert nbformat.read(path, 4).cells[0].source.splitlines()[0].lstrip("# ") in text
        # The other template of nbconvert 7.17 has no place for it.
        assert template == "lab" or "No description has been provided" not in text, path.stem


def test_chapters_become_scripts(tmp_path):
    copies = [shutil.copy(path, tmp_path) for path in all_chapters()]
    command("jupytext", "--to", "py", *copies, cwd=tmp_path)
    for path in all_chapters():
        body = ast.parse((tmp_path / f"{path.stem}.py").read_text()).body
        names = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
        assert {"seed", "run_dir"} < set(names), path.stem


def short(number, folder):
    path = folder / all_chapters()[number - 1].name
    notebook = load_notebook_node(str(all_chapters()[number - 1]))
    nbformat.write(parameterize_notebook(notebook, {**SMOKE, "run_dir": str(folder / "run")}), path)
    return path


@pytest.mark.slow
def test_jupyter_execute_nbconvert_and_a_script_run_chapters(tmp_path, loopback):
    """Each takes what the first one made."""
    path = short(1, tmp_path)
    command("jupyter-execute", "--inplace", path, cwd=tmp_path)
    cells = nbformat.read(path, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    command("jupyter-nbconvert", "--execute", "--to", "html", short(3, tmp_path), cwd=tmp_path)
    assert (tmp_path / "03_optimizer_and_schedule.html").stat().st_size < LARGEST
    path = short(2, tmp_path)
    command("jupytext", "--to", "py", path, cwd=tmp_path)
    done = command("python", path.with_suffix(".py"), cwd=tmp_path)
    assert "every row once: True" in done.stdout
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    for figure in ("train_rows", "padding_grouped", "first_loss_of_one_batch"):
        assert figure in metrics
