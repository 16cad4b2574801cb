"""What lies in a run folder is whole, belongs to known settings, and is made by one run at a time."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import pytest
from lessons import cells_of, make_here, printed, run_here

from conftest import SMOKE
from suite import chapters
from suite.chapters import ROOT
from suite.errors import UserError
from suite.runs import (
    HELD,
    is_made_by,
    locked,
    made_by,
    new_folder,
    run_folder,
    show_figures,
)
from suite.settings import Settings


def test_a_relative_run_dir_starts_at_the_project(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_folder(Settings()) == root / "runs" / "default"
    assert run_folder(replace(Settings(), run_dir=str(tmp_path / "x"))) == tmp_path / "x"


@pytest.fixture
def settings(tmp_path):
    return replace(Settings(), run_dir=str(tmp_path))


def test_a_folder_is_taken_for_what_made_it_and_only_whole(settings, tmp_path):
    with new_folder(settings, "model") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "weights").write_text("12345")
    folder, stamp = tmp_path / "model", made_by(settings, "model")
    (folder / "README.md").write_text("added later")
    assert is_made_by(folder, stamp)
    for same in ({"num_test": 5}, {"save_steps": 5}, {"run_dir": "elsewhere"}):
        assert is_made_by(folder, made_by(replace(settings, **same), "model"))
    for other in ({"seed": 1}, {"num_epochs": 1}, {"max_length": 64}):
        assert not is_made_by(folder, made_by(replace(settings, **other), "model"))
    assert not is_made_by(folder, made_by(settings, "trainer"))
    assert made_by(replace(settings, num_test=5), "data") != made_by(settings, "data")
    for name, contents in (("inside/weights", ["123"]), ("made_by.json", ["", "{", "[]"])):
        whole = (folder / name).read_text()
        for content in contents:
            (folder / name).write_text(content)
            assert not is_made_by(folder, stamp), (name, content)
        (folder / name).unlink()
        assert not is_made_by(folder, stamp), name
        (folder / name).write_text(whole)
        assert is_made_by(folder, stamp)


def test_a_changed_file_makes_other_results(settings, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\na,0\n")
    settings = replace(settings, dataset_name=str(file))
    stamp = made_by(settings, "data")
    assert made_by(settings, "data") == stamp
    file.write_text("text,label\na,0\nb,1\n")
    assert made_by(settings, "data") != stamp


def test_a_failure_leaves_the_old_folder_and_no_rest(settings, tmp_path):
    for text in ("old", "new"):
        with new_folder(settings, "model") as folder:
            (folder / "weights").write_text(text)
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), new_folder(settings, "model") as folder:
            (folder / "weights").write_text("half")
            raise error
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]


def test_a_full_disk_is_one_line(settings):
    full = pytest.raises(UserError, match="is full .* make room and start again$")
    with full, new_folder(settings, "model"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("file", "cell_id", "stale"),
    [
        ("notebooks/04_training_loop.ipynb", "about-train", ""),
        ("notebooks/04_training_loop.ipynb", "setup", ""),
        ("notebooks/04_training_loop.ipynb", "exercise-1-answer", ""),
        ("notebooks/04_training_loop.ipynb", "train", "model"),
        ("notebooks/05_evaluation.ipynb", "compute-metrics", ""),
        ("notebooks/01_prepare_data.ipynb", "clean-reviews", "data model trainer keras"),
        ("helpers/trainer_road.py", None, ""),
        ("helpers/batches.py", None, "model trainer keras"),
    ],
)
def test_code_makes_stale_what_it_decides(tmp_path, monkeypatch, file, cell_id, stale):
    """Words, links and answers make nothing stale. In a copy of chapters and helpers."""
    for folder in ("notebooks", "helpers"):
        shutil.copytree(chapters.ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path / "notebooks")
    before = {name: made_by(Settings(), name) for name in ("data", "model", "trainer", "keras")}
    if cell_id is None:
        (tmp_path / file).write_text("changed")
    else:
        notebook = nbformat.read(tmp_path / file, as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
        cell.source += "\nx = 1"
        nbformat.write(notebook, tmp_path / file)
    assert [name for name in before if made_by(Settings(), name) != before[name]] == stale.split()


def test_a_figure_outside_its_interval_stops_a_default_run(settings, capsys):
    with pytest.raises(AssertionError, match="accuracy is 0.5000, outside the measured interval"):
        show_figures(settings, accuracy=0.5)
    show_figures(replace(settings, num_epochs=1), accuracy=0.5)
    assert capsys.readouterr().out.splitlines()[-1] == "accuracy ≈ 0.500"


FIGURES = {
    "05_evaluation": ["show-metrics", "compare-baselines", "score-classes"],
    "08_trainer": ["show-accuracy", "compare-accuracy"],
}


def start(chapter, settings, out, home):
    command = [sys.executable, "-m", "papermill", f"notebooks/{chapter}.ipynb", str(out)]
    own = {name: getattr(settings, name) for name in ("seed", "model_name", "run_dir")}
    values = {**SMOKE, **own}
    command += [str(word) for pair in values.items() for word in ("-p", *pair)]
    environment = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def figures(process, chapter, out):
    """What the cells with figures of training printed."""
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said[-3000:]
    texts = [printed(cells_of(out)[name]) for name in FIGURES[chapter]]
    assert all("≈" in text for text in texts)
    return texts


@pytest.mark.long
def test_four_runs_at_once_end_as_if_each_were_alone(
    smoke, tmp_path, loopback, monkeypatch, capsys
):
    """One run folder, and a cache that is empty at first; two of the runs have the same settings."""
    runs = [("05_evaluation", 1), ("05_evaluation", 1), ("05_evaluation", 2), ("08_trainer", 3)]
    home, started = tmp_path / "home", []
    for number, (chapter, seed) in enumerate(runs):
        out = tmp_path / f"{number}.ipynb"
        started.append((start(chapter, replace(smoke, seed=seed), out, home), chapter, out))
    together = [figures(*one) for one in started]
    assert together[0] == together[1]
    make_here(monkeypatch)
    for number in (1, 2, 3):
        chapter, seed = runs[number]
        run_here(chapter[:2], replace(smoke, seed=seed, run_dir=str(tmp_path / f"alone-{number}")))
        alone = capsys.readouterr().out
        assert all(text in alone for text in together[number])
    shared = run_folder(smoke)
    names = (path.name for path in shared.iterdir())
    assert [name for name in names if re.match(r"checkpoints|\.(?!.*\.lock$)", name)] == []


HOLD = """
import sys, time
from pathlib import Path
from suite import runs

folder, seconds, runs.PATIENCE = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
with runs.locked(folder):
    print("held", flush=True)
    time.sleep(seconds)
"""


def hold(folder, seconds, patience):
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds), str(patience)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_run_waits_for_another_and_a_killed_one_is_not_waited_for(tmp_path):
    """A short wait is not worth a word."""
    holder = hold(tmp_path / "model", seconds=600, patience=60)
    assert holder.stdout.readline() == "held\n"
    patient, waiter = (hold(tmp_path / "model", 0, patience) for patience in (60, 0.2))
    waiting = "Another run works on model of the same run_dir: waiting for it.\n"
    assert waiter.stdout.readline() == waiting
    time.sleep(2)
    assert patient.poll() is None
    holder.kill()
    holder.communicate()
    assert [process.communicate()[0] for process in (patient, waiter)] == ["held\n", "held\n"]


def test_who_holds_a_lock_holds_it_for_itself_and_its_children(tmp_path, monkeypatch):
    settings = replace(Settings(), run_dir=str(tmp_path))
    with locked(tmp_path / "model"):
        with new_folder(settings, "model") as folder:
            (folder / "weights").write_text("1")
        monkeypatch.setenv(HELD, os.pathsep.join([str(tmp_path / "data"), str(tmp_path / "model")]))
        child = hold(tmp_path / "model", seconds=0, patience=60)
        assert child.communicate()[0] == "held\n"
    assert (tmp_path / "model" / "weights").read_text() == "1"
