"""Start several processes: from a shell through `accelerate launch`, or from a notebook."""

import json
import multiprocessing
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from suite.errors import UserError
from suite.runs import write_json
from suite.settings import Settings

PATIENCE = 10  # seconds; a child that can compute takes a fiftieth of one
CONFIGS = Path(__file__).with_name("accelerate")


class LaunchError(UserError):
    """Several processes cannot be started from here; the message says why."""


def write_settings(settings, folder, **changes):
    """Write `folder/settings.json` for `train_distributed`, with some values changed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "settings.json", asdict(settings) | changes)


def read_settings(folder):
    """Return (Settings, whether dropout is on) of `write_settings`."""
    values = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    dropout = values.pop("dropout", True)
    return Settings(**values), dropout


def launch_command(script, folder, num_processes, config="cpu"):
    """Return the command that runs `script folder` in several processes, with a file of `suite/accelerate`."""
    config = CONFIGS / f"{config}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--num_processes", str(num_processes), "--main_process_port", "0"]
    return [*command, str(script), str(folder)]


def check_before_launch(num_processes, device):
    """Raise LaunchError unless `notebook_launcher` can start `num_processes` from this kernel.

    It makes copies of this process. A copy cannot use a GPU that the process has touched, nor an
    Accelerator that it has made, nor threads that have computed, so one is tried. device: "cpu" if no
    GPU is to be used. Touches no GPU itself.
    """
    if AcceleratorState._shared_state:
        raise LaunchError("a cell has made an Accelerator: restart the kernel, launch first")
    if device != "cpu":
        devices = torch.cuda.device_count()
        if torch.cuda.is_initialized():
            raise LaunchError("a cell has used the GPU already: restart the kernel, launch first")
        if num_processes > devices:
            there = "there is 1 GPU" if devices == 1 else f"there are {devices} GPUs"
            raise LaunchError(f"{num_processes} processes asked for, but {there}")
    child = multiprocessing.get_context("fork").Process(target=_compute, args=(num_processes,))
    child.start()
    child.join(PATIENCE)
    if child.is_alive():
        child.kill()
        child.join()
        raise LaunchError(
            "a cell has computed with threads, and a copy of the kernel would wait for them for ever:"
            " restart the kernel, launch first"
        )


def _compute(num_processes):
    """Compute with as many threads as a process of the job does."""
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"] = str(num_processes)
    prepare_process()
    torch.ones(1_000_000).add_(1)


def prepare_process():
    """Give this process its share of the machine's cores, and let it meet the others over loopback.

    gloo's own choice of an interface follows the machine's name, so a job would stop for good when the
    network that has given the name its address goes away. `accelerate.debug_launcher` does the same.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "OMP_NUM_THREADS" not in os.environ:  # the launcher may have done so
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    if int(os.environ.get("WORLD_SIZE", "1")) == processes:
        for _, name in socket.if_nameindex():
            if name in ("lo", "lo0"):  # Linux, macOS
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
