"""The loop in two processes: the same weights, every row counted once, no hang when one dies."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from conftest import SMOKE, where_all_stand
from helpers.distributed import all_reduce_seconds
from suite import launch
from suite.chapters import ROOT
from suite.launch import CONFIGS, LaunchError, check_before_launch, launch_command, write_settings
from suite.start import check_values

# One process: each uses both cores anyway, and two jobs at once would share a port.
pytestmark = pytest.mark.xdist_group("distributed")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# The chapter's script, which also looks whether the model is freed before the process group.
# Otherwise a job hangs at its end now and then, in one of some ten launches on a busy machine: the
# model would be the last to hold the group. Its destructor joins the threads of gloo and keeps the
# GIL, for which such a thread may wait to free the tensor that it has just sent.
SCRIPT = """
import gc
import sys
from pathlib import Path

from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from helpers.distributed import train_distributed

end_training = Accelerator.end_training

def check_and_end(self):
    left = [thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel)]
    assert not left, "a model is left"
    print("no model is left")
    end_training(self)

Accelerator.end_training = check_and_end
train_distributed(Path(sys.argv[1]))
"""


def command(folder, num_processes):
    (folder / "train.py").write_text(SCRIPT)
    return launch_command(folder / "train.py", folder, num_processes)


@pytest.mark.long
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(tmp_path, record_property):
    """And count every row once, although the last batch is uneven."""
    sizes = {"num_train": 96, "num_validation": 16, "num_test": 43, "max_length": 64}
    common = {**sizes, "num_epochs": 1, "device": "cpu", "run_dir": str(tmp_path / "run")}
    metrics, weights = {}, {}
    for number in (1, 2):
        job = tmp_path / str(number)
        settings = check_values({**common, "batch_size": 16 // number})
        write_settings(settings, job, dropout=False)
        run = subprocess.run(command(job, number), env=ENV, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count("no model is left") == number
        metrics[number] = json.loads((job / "metrics.json").read_text())
        weights[number] = load_file(job / "model" / "model.safetensors")
    assert metrics[1]["steps"] == metrics[2]["steps"] == 6
    losses = zip(metrics[1]["losses"], metrics[2]["losses"], strict=True)
    losses = max(abs(one - two) for one, two in losses)
    difference = max((weights[1][n] - weights[2][n]).abs().max().item() for n in weights[1])
    record_property("1 and 2 processes: largest difference of losses", losses)
    record_property("1 and 2 processes: largest difference of weights", difference)
    assert losses <= 1e-5 and difference <= 1e-5
    assert metrics[1]["rows_counted"] == metrics[2]["rows_counted"] == 43
    assert metrics[1]["accuracy"] == metrics[2]["accuracy"]


def workers(job):
    """The ids of the processes that train and have a connection to each other."""
    return [
        child.pid
        for child in psutil.Process(job.pid).children(recursive=True)
        if "train.py" in (said := " ".join(child.cmdline()))
        and "launch" not in said
        and child.net_connections()
    ]


@pytest.mark.long
def test_a_killed_process_ends_the_job_with_an_error(smoke, tmp_path):
    write_settings(replace(smoke, num_epochs=1000, device="cpu"), tmp_path)
    with Path(tmp_path, "log").open("w") as log:
        job = subprocess.Popen(command(tmp_path, 2), env=ENV, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 300
        while len(pids := workers(job)) < 2:
            assert time.monotonic() < end, "2 processes did not start"
            time.sleep(0.2)
        time.sleep(5)
        assert job.poll() is None
        os.kill(pids[1], signal.SIGKILL)
        assert job.wait(timeout=60) != 0
        assert not any(psutil.pid_exists(pid) for pid in pids)
    finally:
        if job.poll() is None:
            for process in psutil.Process(job.pid).children(recursive=True):
                process.kill()
        job.kill()
    assert not (tmp_path / "metrics.json").exists()


# The machine's name belongs to an address that goes away once the processes have found each other.
NETWORK_LOST = """
ip link set lo up
ip addr add 10.9.9.9/32 dev lo
hostname moving
printf '127.0.0.1 localhost\\n10.9.9.9 moving\\n' > "$FOLDER/hosts"
mount --bind "$FOLDER/hosts" /etc/hosts
"$@" &
until [ -e "$FOLDER/run/data" ]; do kill -0 $!; sleep 0.1; done
ip addr del 10.9.9.9/32 dev lo
wait $!
"""


@pytest.mark.long
def test_a_lost_network_does_not_stop_the_processes_of_one_machine(tmp_path):
    namespaces = ["unshare", "-rnum"]
    able = "ip addr add 10.9.9.9/32 dev lo && mount --bind /etc/hosts /etc/hosts"
    if subprocess.run([*namespaces, "sh", "-c", able], capture_output=True).returncode:
        pytest.skip("a network of its own cannot be made here")
    settings = check_values({**SMOKE, "batch_size": 1, "device": "cpu"})
    write_settings(replace(settings, run_dir=str(tmp_path / "run")), tmp_path)
    started = [*namespaces, "sh", "-ec", NETWORK_LOST, "sh", *command(tmp_path, 2)]
    env = {**ENV, "FOLDER": str(tmp_path)}
    with Path(tmp_path, "log").open("w+") as log:
        job = subprocess.Popen(started, env=env, stdout=log, stderr=log)
        try:
            assert job.wait(timeout=120) == 0, (tmp_path / "log").read_text()[-3000:]
        except subprocess.TimeoutExpired:
            pytest.fail(where_all_stand(job, log))
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 16


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_config(path):
    config = load_config_from_file(str(path))
    assert config.num_processes % config.num_machines == 0
    assert str(config.distributed_type).endswith("FSDP" if path.stem == "fsdp" else "MULTI_GPU")


def test_the_launcher_refuses_what_it_cannot_start(monkeypatch):
    """`Trainer` in a test of another file leaves an Accelerator behind in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(launch, "_compute", lambda processes: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_before_launch(2, "auto")
    with pytest.raises(LaunchError, match="3 processes asked for, but there are 2 GPUs"):
        check_before_launch(3, "auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(LaunchError, match="2 processes asked for, but there is 1 GPU"):
        check_before_launch(2, "auto")
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with pytest.raises(LaunchError, match="used the GPU already"):
        check_before_launch(1, "auto")
    check_before_launch(2, "cpu")
    Accelerator(cpu=True)
    with pytest.raises(LaunchError, match="a cell has made an Accelerator"):
        check_before_launch(2, "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    # What would wait for ever where threads have computed is stood in for by a long sleep.
    monkeypatch.setattr(launch, "PATIENCE", 0.2)
    monkeypatch.setattr(launch, "_compute", lambda processes: time.sleep(60))
    with pytest.raises(LaunchError, match="has computed with threads"):
        check_before_launch(2, "cpu")


def test_the_model_of_all_reduce_is_that_of_a_ring():
    assert all_reduce_seconds(10**9, 1, 10**9) == 0
    assert all_reduce_seconds(10**9, 2, 10**9) == pytest.approx(1.0)
    assert all_reduce_seconds(10**9, 16, 10**9) == pytest.approx(1.875)
