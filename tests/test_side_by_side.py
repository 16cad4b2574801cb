"""Runs that share a clone, a cache and a run folder do not get into each other's way."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import pytest

from conftest import SMOKE
from suite.chapters import ROOT
from suite.runs import HELD, locked, new_folder
from suite.settings import Settings

FIGURES = {
    "05_evaluation": ["show-metrics", "compare-baselines", "score-classes"],
    "08_trainer": ["show-accuracy", "compare-accuracy"],
}


def start(chapter, seed, model, run_dir, out, home):
    command = [sys.executable, "-m", "papermill", f"notebooks/{chapter}.ipynb", str(out)]
    values = {**SMOKE, "seed": seed, "model_name": model, "run_dir": str(run_dir)}
    for name, value in values.items():
        command += ["-p", name, str(value)]
    environment = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def figures(process, chapter, out):
    """What the cells with figures of training printed."""
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said[-3000:]
    cells = {cell.id: cell for cell in nbformat.read(out, as_version=4).cells}
    texts = ["".join(o.text for o in cells[name].outputs) for name in FIGURES[chapter]]
    assert all("≈" in text for text in texts)
    return texts


@pytest.mark.long
def test_four_runs_at_once_end_as_if_each_were_alone(tiny_model, tmp_path, loopback):
    """One run folder, and a cache that is empty at first; two of the runs have the same settings."""
    runs = [("05_evaluation", 1), ("05_evaluation", 1), ("05_evaluation", 2), ("08_trainer", 3)]
    outs = [tmp_path / f"{number}.ipynb" for number in range(len(runs))]
    shared, home = tmp_path / "run", tmp_path / "home"
    started = [
        start(*run, tiny_model, shared, out, home) for run, out in zip(runs, outs, strict=True)
    ]
    together = [
        figures(process, chapter, out)
        for process, (chapter, _), out in zip(started, runs, outs, strict=True)
    ]
    for number in (1, 2, 3):
        out = tmp_path / f"alone-{number}.ipynb"
        process = start(*runs[number], tiny_model, tmp_path / f"run-{number}", out, home)
        assert figures(process, runs[number][0], out) == together[number]
    assert together[0] == together[1]
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
