"""A training that was killed goes on as if nothing had happened."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import one_line, rows_of, train
from safetensors.torch import load_file

from conftest import SMOKE
from suite.checkpoints import CheckpointError, Checkpoints, TrainerCheckpoints, TrainingError
from suite.start import check_values

pytestmark = pytest.mark.slow


# Children of a process that has imported everything start at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["helpers.trainer_road", "helpers.training", "pandas", "lessons"])

each_road = pytest.mark.parametrize("road", ["model", "trainer"])


@pytest.fixture
def settings(smoke):
    """Eight steps in two epochs, with checkpoints within and at the end of each."""
    return replace(smoke, num_epochs=2, save_steps=3)


def weights(settings, road):
    return load_file(Path(settings.run_dir, road, "model.safetensors"))


def stored(settings, road):
    return sorted(Path(settings.run_dir, "checkpoints").glob(f"{road}-*/*"))


def in_its_own_process(settings, road, log):
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    train(road, settings)


def run(settings, road, log, seconds=None, while_writing=False):
    """Train in a process, and kill it so long after its start or its first half-written checkpoint."""
    child = FORKS.Process(target=in_its_own_process, args=(settings, road, str(log)))
    child.start()
    while while_writing and child.is_alive():
        if any(not (folder / "whole.json").exists() for folder in stored(settings, road)):
            break
        time.sleep(0.002)
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@each_road
@pytest.mark.parametrize(
    "grouped, first, kills",
    [
        pytest.param(True, 0, 8, marks=pytest.mark.long),
        pytest.param(True, 10, 10, marks=pytest.mark.long),
        pytest.param(False, 30, 2, marks=pytest.mark.long),
        (False, 20, 1),
    ],
)
def test_a_killed_training_ends_with_equal_weights(settings, road, grouped, first, kills, tmp_path):
    """Killed at a random moment, every second time while a checkpoint is written, and started again."""
    settings = replace(settings, group_by_length=grouped)
    rows_of(settings)
    log = tmp_path / "log"
    started = time.monotonic()
    assert run(settings, road, log) == 0, log.read_text()
    seconds = time.monotonic() - started
    expected = weights(settings, road)
    for kill in range(first, first + kills):
        moments = random.Random(kill)
        killed = replace(settings, run_dir=str(tmp_path / f"killed-{kill}"))
        shutil.copytree(Path(settings.run_dir, "data"), Path(killed.run_dir, "data"))
        while_writing = kill % 2 == 0
        moment = moments.uniform(0, 0.5) if while_writing else moments.uniform(0.1, 0.9) * seconds
        while run(killed, road, log, moment, while_writing) != -signal.SIGKILL:
            moment *= 0.8  # it was too fast
            shutil.rmtree(Path(killed.run_dir, road))
        found = [folder.name for folder in stored(killed, road)]
        code = run(killed, road, log)
        about = f"{moment=:.2f}, {while_writing=}, {found=}\n{log.read_text()[-3000:]}"
        assert code == 0 and same(weights(killed, road), expected), about
        assert not stored(killed, road)
        shutil.rmtree(killed.run_dir)


@pytest.fixture(scope="module")
def two_trainings(tmp_path_factory, tiny_model):
    """The same training twice: to its end, and broken off after its second epoch."""
    sizes = {**SMOKE, "num_epochs": 2, "save_steps": 3, "model_name": tiny_model}
    settings = check_values({**sizes, "run_dir": str(tmp_path_factory.mktemp("whole"))})
    train("model", settings)
    broken_off = replace(settings, run_dir=str(tmp_path_factory.mktemp("broken-off")))
    end_epoch = Checkpoints.end_epoch

    def stop(checkpoints, *figures):
        end_epoch(checkpoints, *figures)
        if len(checkpoints.epochs) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "end_epoch", stop)
        train("model", broken_off)
    return broken_off, weights(settings, "model")


@pytest.fixture
def broken_off(two_trainings, tmp_path):
    """Return the settings of a training that was broken off, its checkpoints, and the weights to come."""
    original, expected = two_trainings
    settings = replace(original, run_dir=str(tmp_path / "copy"))
    shutil.copytree(original.run_dir, settings.run_dir)
    names = [folder.name for folder in stored(settings, "model")]
    assert names == ["step-00000004", "step-00000006", "step-00000008"]
    return settings, stored(settings, "model"), expected


CHANGED = ": {} is not as it was written"
CUT_SHORT = " was not written to its end"
FOREIGN = " belongs to another training"
RATE = b'"learning_rate": 0.0001'


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [  # damage(bytes of the newest, bytes of the oldest): bytes to write; none for no file
        ("model.safetensors", lambda new, old: new[: len(new) // 2], CHANGED),
        ("model.safetensors", lambda new, old: old, CHANGED),
        ("training.safetensors", lambda new, old: new[:-1] + bytes([new[-1] ^ 1]), CHANGED),
        ("state.json", lambda new, old: None, CHANGED),
        ("whole.json", lambda new, old: None, CUT_SHORT),
        ("whole.json", lambda new, old: b'["what?"]', CUT_SHORT),
        ("whole.json", lambda new, old: old, FOREIGN),
        ("whole.json", lambda new, old: new.replace(RATE, RATE + b"1"), FOREIGN),
    ],
)
def test_a_damaged_checkpoint_is_left_for_the_one_before(broken_off, file, damage, said, capfd):
    settings, folders, expected = broken_off
    damaged = damage(*((folder / file).read_bytes() for folder in (folders[-1], folders[0])))
    assert damaged != (folders[-1] / file).read_bytes()
    (folders[-1] / file).unlink()
    if damaged is not None:
        (folders[-1] / file).write_bytes(damaged)
    train("model", settings)
    printed = capfd.readouterr().out
    assert f"checkpoint step-00000008{said.format(file)}" in printed
    assert "going on from step-00000006" in printed
    assert same(weights(settings, "model"), expected)


def test_without_its_best_epoch_a_checkpoint_is_refused(broken_off, capfd):
    """The weights of the best epoch are the result; a checkpoint that has lost them is of no use."""
    settings, folders, expected = broken_off
    best = [json.loads((folder / "whole.json").read_text())["best"] for folder in folders]
    assert best == ["step-00000004", "step-00000004", "step-00000008"]
    shutil.rmtree(folders[0])
    (folders[-1] / "whole.json").unlink()
    train("model", settings)
    said = capfd.readouterr().out
    assert "checkpoint step-00000004 was not written to its end" in said
    assert "going on" not in said
    assert same(weights(settings, "model"), expected)


def test_changed_settings_start_from_the_beginning(broken_off, capfd):
    """And training twice gives the same weights bit for bit."""
    settings, folders, _ = broken_off
    other = replace(settings, learning_rate=2e-4)
    train("model", other)
    assert "going on" not in capfd.readouterr().out
    apart = replace(other, run_dir=other.run_dir + "-apart")
    train("model", apart)
    assert same(weights(other, "model"), weights(apart, "model"))
    assert stored(settings, "model") == folders  # nothing of the first training is lost


def test_a_model_that_is_trained_already_is_not_trained_on_as_if_it_were_new(settings):
    """As when a reader interrupts the cell before its first checkpoint, and runs it again."""
    rows = [{"labels": number} for number in range(4)]
    loader = torch.utils.data.DataLoader(rows, shuffle=True, generator=torch.Generator())
    for _ in range(2):  # a new one is taken
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        parts = model, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer), loader
        with Checkpoints(settings, *parts):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        with pytest.raises(CheckpointError, match="trained already, and there is no checkpoint"):
            Checkpoints(settings, *parts).__enter__()


def test_the_trainer_refuses_a_damaged_checkpoint_too(settings, monkeypatch, capfd):
    train("trainer", settings)
    expected = weights(settings, "trainer")
    settings = replace(settings, run_dir=settings.run_dir + "-broken-off")

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainerCheckpoints, "on_pre_optimizer_step", stop)
        train("trainer", settings)
    *_, before, newest = sorted(stored(settings, "trainer"))
    (newest / "optimizer.pt").write_bytes((before / "optimizer.pt").read_bytes()[:1000])
    capfd.readouterr()
    train("trainer", settings)
    said = capfd.readouterr().out
    assert f"checkpoint {newest.name}: optimizer.pt is not as it was written" in said
    assert f"going on from {before.name}" in said
    assert same(weights(settings, "trainer"), expected)


@each_road
def test_a_loss_that_is_no_number_stops_at_once_and_says_why(settings, road, monkeypatch):
    """With activations that leave the range of float32."""
    forward = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *args: forward(*args) * 1e38)
    said = "step 1: the gradient is not a finite number; make learning_rate (1.0) smaller"
    with pytest.raises(TrainingError, check=one_line(said)):
        train(road, replace(settings, learning_rate=1.0))
    assert not Path(settings.run_dir, road).exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), 0])
def test_no_memory_says_what_to_change_and_keeps_the_checkpoint(settings, error, monkeypatch):
    step = torch.optim.AdamW.step

    def fail(self, *args, **kwargs):
        if self.state and next(iter(self.state.values()))["step"] == 4:
            if error:
                raise error
            torch.empty(2**60)  # a real failure: no machine has the memory for it
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    said = "no memory left; make batch_size (8) or max_length (32) smaller"
    with pytest.raises(TrainingError, check=one_line(said, "the last checkpoint is step-00000004")):
        train("model", settings)


@each_road
def test_a_full_disk_ends_with_one_line_and_keeps_the_last_checkpoint(settings, road, small_disk):
    """A disk with room for the data and one checkpoint and a half."""
    settings = replace(settings, run_dir=str(small_disk / "run"), save_steps=4)
    with pytest.raises(
        TrainingError, check=one_line("is full (", "make room and start again")
    ) as caught:
        train(road, settings)
    *_, last = (at.name for at in stored(settings, road) if (at / "whole.json").is_file())
    assert last.endswith("4") and f"the last checkpoint is {last}" in str(caught.value)
    subprocess.run(["mount", "-o", "remount,size=2g", str(small_disk)], check=True)
    train(road, settings)
    elsewhere = replace(settings, run_dir=str(small_disk / "elsewhere"))
    train(road, elsewhere)
    assert same(weights(settings, road), weights(elsewhere, road))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own in memory, 22 MiB large; skipped where nothing may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=22m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
