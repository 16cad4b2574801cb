"""Runs that share a clone, a cache and a run folder do not get into each other's way."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from conftest import SMOKE
from suite.runs import HELD, locked, new_folder
from suite.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "05_evaluation": ["show-metrics", "compare-baselines", "score-classes"],
    "08_trainer": ["show-accuracy", "compare-accuracy"],
}


def start(chapter, seed, run_dir, out, home):
    command = [sys.executable, "-m", "papermill", f"notebooks/{chapter}.ipynb", str(out)]
    for name, value in {**SMOKE, "seed": seed, "run_dir": str(run_dir)}.items():
        command += ["-p", name, str(value)]
    environment = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def figures(chapter, out):
    """What the cells with figures of training printed."""
    cells = {cell.id: cell for cell in nbformat.read(out, as_version=4).cells}
    texts = ["".join(o.text for o in cells[name].outputs) for name in FIGURES[chapter]]
    assert all("≈" in text for text in texts)
    return texts


@pytest.mark.faults
def test_four_runs_at_once_end_as_if_each_were_alone(tmp_path, loopback):
    """One run folder, and a cache that is empty at first; two of the runs have the same settings."""
    runs = [("05_evaluation", 1), ("05_evaluation", 1), ("05_evaluation", 2), ("08_trainer", 3)]
    home = tmp_path / "home"
    together = [
        start(chapter, seed, tmp_path / "run", tmp_path / f"{number}.ipynb", home)
        for number, (chapter, seed) in enumerate(runs)
    ]
    for process in together:
        said, _ = process.communicate(timeout=500)
        assert process.returncode == 0, said[-3000:]
    alone = {}
    for number, (chapter, seed) in enumerate(runs):
        if (chapter, seed) not in alone:
            out = tmp_path / f"alone-{number}.ipynb"
            process = start(chapter, seed, tmp_path / f"run-{number}", out, home)
            said, _ = process.communicate(timeout=500)
            assert process.returncode == 0, said[-3000:]
            alone[chapter, seed] = figures(chapter, out)
        assert figures(chapter, tmp_path / f"{number}.ipynb") == alone[chapter, seed]
    left = [
        path.name
        for path in (tmp_path / "run").iterdir()
        if re.match(r"\.(?!.*\.lock$)", path.name)
    ]
    assert left == []
    assert not (tmp_path / "run" / "checkpoints").exists()


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


def test_a_run_waits_for_another_and_a_killed_one_is_not_waited_for(tmp_path, capsys):
    holder = hold(tmp_path / "model", seconds=600, patience=0.2)
    assert holder.stdout.readline() == "held\n"
    waiter = hold(tmp_path / "model", seconds=600, patience=0.2)
    assert (
        waiter.stdout.readline()
        == "Another run works on model of the same run_dir: waiting for it.\n"
    )
    time.sleep(0.5)
    holder.kill()
    holder.wait()
    assert waiter.stdout.readline() == "held\n"
    waiter.kill()
    waiter.wait()
    with locked(tmp_path / "model"):
        pass
    assert capsys.readouterr().out == ""


def test_a_short_wait_is_not_worth_a_word(tmp_path):
    holder = hold(tmp_path / "data", seconds=5, patience=60)
    assert holder.stdout.readline() == "held\n"
    waiter = hold(tmp_path / "data", seconds=0, patience=60)
    assert waiter.communicate()[0] == "held\n"
    holder.communicate()


def test_a_lock_within_a_lock_of_the_same_run_is_no_lock_out(tmp_path):
    settings = replace(Settings(), run_dir=str(tmp_path))
    with locked(tmp_path / "model"), new_folder(settings, "model") as folder:
        (folder / "weights").write_text("1")
    assert (tmp_path / "model" / "weights").read_text() == "1"


def test_a_process_need_not_wait_for_what_its_parent_holds_for_it(tmp_path, monkeypatch):
    with locked(tmp_path / "model"):
        monkeypatch.setenv(HELD, os.pathsep.join([str(tmp_path / "data"), str(tmp_path / "model")]))
        holder = hold(tmp_path / "model", seconds=0, patience=60)
        assert holder.communicate()[0] == "held\n"
