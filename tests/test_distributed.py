"""The loop in two processes: the same weights, every row counted once, no hang when one dies."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from helpers.distributed import (
    LaunchError,
    all_reduce_seconds,
    check_before_launch,
    launch_command,
    write_settings,
)
from helpers.runner import all_chapters
from helpers.runs import HELPERS

# One process: each uses both cores anyway, and two jobs at once would share a port.
pytestmark = pytest.mark.xdist_group("distributed")
ROOT = HELPERS.parent
CONFIGS = sorted((HELPERS / "launch").glob("*.yaml"))


def launch(folder, num_processes, **arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        launch_command(folder, num_processes),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **arguments,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process with batches of 16, and two with batches of 8 each, on the same rows."""
    from helpers.parameters import check_values

    folder = tmp_path_factory.mktemp("distributed")
    sizes = {"num_train": 96, "num_validation": 16, "num_eval": 43, "max_length": 64}
    metrics, weights = {}, {}
    for processes, batch_size in ((1, 16), (2, 8)):
        settings = check_values(
            {
                **sizes,
                "batch_size": batch_size,
                "num_epochs": 1,
                "device": "cpu",
                "run_dir": str(folder / "run"),
            }
        )
        job = folder / str(processes)
        write_settings(settings, job, dropout=False)
        run = launch(job, processes)
        assert run.returncode == 0, run.stderr[-3000:]
        metrics[processes] = json.loads((job / "metrics.json").read_text())
        weights[processes] = load_file(job / "model" / "model.safetensors")
    return metrics, weights


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(runs, record_property):
    metrics, weights = runs
    assert metrics[1]["texts_a_step"] == metrics[2]["texts_a_step"] == 16
    assert metrics[1]["steps"] == metrics[2]["steps"] == 6
    losses = zip(metrics[1]["losses"], metrics[2]["losses"], strict=True)
    losses = max(abs(one - two) for one, two in losses)
    difference = max(
        (weights[1][name] - weights[2][name]).abs().max().item() for name in weights[1]
    )
    record_property("1 and 2 processes: largest difference of losses", losses)
    record_property("1 and 2 processes: largest difference of weights", difference)
    assert losses <= 1e-5
    assert difference <= 1e-5


def test_every_row_is_counted_once_although_the_last_batch_is_uneven(runs):
    metrics, _ = runs
    assert 43 % 16 and 43 % 8
    assert metrics[1]["rows_counted"] == metrics[2]["rows_counted"] == 43
    assert metrics[1]["accuracy"] == metrics[2]["accuracy"]


def test_a_killed_process_ends_the_job_with_an_error(smoke, tmp_path):
    from dataclasses import replace

    write_settings(replace(smoke, num_epochs=1000, device="cpu"), tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Path(tmp_path, "log").open("w") as log:
        job = subprocess.Popen(launch_command(tmp_path, 2), env=environment, stdout=log, stderr=log)
    try:
        workers = wait_for_workers(job.pid, 2)
        time.sleep(5)
        assert job.poll() is None
        os.kill(workers[1], signal.SIGKILL)
        assert job.wait(timeout=60) != 0
        assert not any(psutil.pid_exists(pid) for pid in workers)
    finally:
        for process in (
            psutil.Process(job.pid).children(recursive=True) if job.poll() is None else []
        ):
            process.kill()
        job.kill()
    assert not (tmp_path / "metrics.json").exists()


def test_the_launch_from_a_notebook_ends_with_all_cores(tmp_path):
    """Chapter 09 up to its launch under nbval, with as many threads as there are cores.

    On one machine it did not end, for a reason not found, so `make test` leaves that cell out. Where
    this happens the test says where each process stands.
    """
    notebook = nbformat.read(all_chapters()[8], as_version=4)
    names = [cell.id for cell in notebook.cells]
    del notebook.cells[names.index("launch-from-notebook") + 1 :]
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)
        cell.source = cell.source.replace('"runs/default"', repr(str(tmp_path / "run")))
    nbformat.write(notebook, tmp_path / "launch.ipynb")
    command = [sys.executable, "-m", "pytest", "-s", "-p", "conftest", "--rootdir", tmp_path]
    command += ["--nbval-lax", "--nbval-current-env", tmp_path / "launch.ipynb"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with Path(tmp_path, "log").open("w+") as log:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            run.wait(timeout=300)
        except subprocess.TimeoutExpired:
            pytest.xfail("the launch did not end within 5 minutes\n" + where_all_stand(run, log))
        log.seek(0)
        assert run.returncode == 0, log.read()[-3000:]
    assert (tmp_path / "run" / "distributed" / "from-notebook" / "metrics.json").exists()


def where_all_stand(run, log):
    """Return the stacks of all processes that `run` has started, by gdb and faulthandler; end them."""
    processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    said = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())[-100:]
            said.append(f"{process.pid}, child of {process.ppid()}, {process.status()}: {command}")
            if shutil.which("gdb"):
                ask = ["gdb", "-p", str(process.pid), "-batch", "-ex", "thread apply all bt 9"]
                stacks = subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout
                for stack in stacks.split("\nThread ")[1:]:
                    said.append(
                        " < ".join(re.findall(r"^#\d+ +(?:0x\w+ in )?([\w:.]+)", stack, re.M))
                    )
    for end in (signal.SIGABRT, signal.SIGKILL):  # faulthandler writes to the log at the first
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(end)
        psutil.wait_procs(processes, timeout=10)
    run.kill()
    log.seek(0)
    return "\n".join([*said, log.read()[-6000:]])


def wait_for_workers(pid, number, seconds=300):
    """Return the ids of the processes that train, once they have a connection to each other."""
    end = time.time() + seconds
    while time.time() < end:
        children = [
            child
            for child in psutil.Process(pid).children(recursive=True)
            if "helpers.distributed" in " ".join(child.cmdline())
        ]
        if len(children) == number and all(child.net_connections() for child in children):
            return [child.pid for child in children]
        time.sleep(0.2)
    raise AssertionError(f"{number} processes did not start")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_config(path):
    config = load_config_from_file(str(path))
    assert config.num_processes % config.num_machines == 0
    assert str(config.distributed_type).endswith("FSDP" if path.stem == "fsdp" else "MULTI_GPU")


def test_the_launcher_refuses_what_it_cannot_start(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_before_launch(2, "auto")
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with pytest.raises(LaunchError, match="restart the kernel"):
        check_before_launch(2, "auto")
    check_before_launch(2, "cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(LaunchError, match="2 processes asked for, but there is 1 GPU"):
        check_before_launch(2, "auto")


def test_an_accelerator_made_before_is_refused():
    code = (
        "from accelerate import Accelerator; Accelerator(cpu=True)\n"
        "from helpers.distributed import check_before_launch; check_before_launch(2, 'cpu')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "LaunchError: a cell has made an Accelerator" in run.stderr


def test_the_model_of_all_reduce_is_that_of_a_ring():
    assert all_reduce_seconds(10**9, 1, 10**9) == 0
    assert all_reduce_seconds(10**9, 2, 10**9) == pytest.approx(1.0)
    assert all_reduce_seconds(10**9, 16, 10**9) == pytest.approx(1.875)
