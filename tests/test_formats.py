"""Chapters in other clients' hands: nbconvert, `jupyter execute`, jupytext. Real commands, from another folder."""

import ast
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
    """Run a command of this environment."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """All chapters with their stored outputs as pages: the usual ones, and those to print."""
    folder = tmp_path_factory.mktemp("pages")
    for template in ("lab", "classic"):
        where = ["--output-dir", folder / template, "--template", template]
        command("jupyter-nbconvert", "--to", "html", *where, *all_chapters(), cwd=folder)
    return folder


@pytest.mark.parametrize("template", ["lab", "classic"])
@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_a_chapter_is_a_page_that_a_mail_can_carry(path, template, pages):
    page = pages / template / f"{path.stem}.html"
    assert 100_000 < page.stat().st_size < LARGEST
    title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
    text = page.read_text(encoding="utf-8")
    assert title in text
    if template == "classic":  # the other one of nbconvert 7.17 has no place for it
        assert "No description has been provided" not in text


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_a_chapter_becomes_a_script(path, tmp_path):
    command("jupytext", "--to", "py", "--output", tmp_path / "chapter.py", path, cwd=tmp_path)
    tree = ast.parse((tmp_path / "chapter.py").read_text())
    assert any(
        isinstance(node, ast.AnnAssign) and node.target.id == "num_train" for node in tree.body
    )


def short(number, folder):
    """A copy of a chapter with the smoke parameters."""
    path = folder / all_chapters()[number - 1].name
    notebook = load_notebook_node(str(all_chapters()[number - 1]))
    nbformat.write(parameterize_notebook(notebook, {**SMOKE, "run_dir": str(folder / "run")}), path)
    return path


def test_jupyter_execute_runs_a_chapter(tmp_path, loopback):
    path = short(1, tmp_path)
    command("jupyter-execute", "--inplace", path, cwd=tmp_path)
    cells = nbformat.read(path, as_version=4).cells
    assert "train_rows" in (tmp_path / "run" / "metrics.json").read_text()
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


def test_nbconvert_runs_a_chapter(tmp_path, loopback):
    command("jupyter-nbconvert", "--execute", "--to", "html", short(3, tmp_path), cwd=tmp_path)
    assert (tmp_path / "03_optimizer_and_schedule.html").stat().st_size < LARGEST
    assert "first_loss_of_one_batch" in (tmp_path / "run" / "metrics.json").read_text()


def test_a_script_of_a_chapter_runs(tmp_path):
    path = short(2, tmp_path)
    command("jupytext", "--to", "py", path, cwd=tmp_path)
    done = command("python", path.with_suffix(".py"), cwd=tmp_path)
    assert "every row once: True" in done.stdout
