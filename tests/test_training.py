"""Training and the model on disk; one that was killed goes on as if nothing had happened."""

import json
import math
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
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import SMOKE
from helpers.batches import make_dataloader, to_model_inputs
from helpers.evaluation import evaluate_model
from helpers.training import load_model, pick_device
from suite.checkpoints import CheckpointError, Checkpoints, TrainerCheckpoints, TrainingError
from suite.errors import UserError
from suite.products import product
from suite.start import check_values

pytestmark = pytest.mark.slow


@pytest.fixture
def class_label(smoke):
    return rows_of(smoke)["train"].features["label"]


@pytest.fixture
def model(smoke, class_label):
    return load_model(smoke.model_name, class_label, smoke.attention_dropout, smoke.seed)


def test_the_new_head_depends_on_the_seed_alone(smoke, model, class_label):
    torch.rand(7)
    again = load_model(smoke.model_name, class_label, 0.0, smoke.seed)
    other = load_model(smoke.model_name, class_label, 0.0, smoke.seed + 1)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert model.dtype == torch.float32
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}


def test_evaluate_model_weighs_every_text_alike(smoke, model, tokenizer):
    """16 rows in batches of 10 and 6: the mean over batches would be wrong. The untrained model guesses."""
    rows = to_model_inputs(rows_of(smoke))["validation"]
    dataloader = make_dataloader(rows, tokenizer, 10)
    loss, accuracy = evaluate_model(model, dataloader, torch.device("cpu"))
    batch = next(iter(make_dataloader(rows, tokenizer, 32)))
    with torch.no_grad():
        outputs = model(**batch)
    assert loss == pytest.approx(outputs.loss.item(), abs=1e-5)
    assert loss == pytest.approx(math.log(2), abs=0.05)
    assert accuracy == (outputs.logits.argmax(-1) == batch["labels"]).float().mean().item()
    assert 0.2 < accuracy < 0.8


def test_the_trained_model_is_kept_and_made_again_for_other_settings(smoke, capfd):
    """The chapter that makes it runs in a process of its own, and shows the bars of its own cells."""
    first = (train("model", smoke) / "model.safetensors").read_bytes()
    capfd.readouterr()
    with product("model", replace(smoke, num_test=smoke.num_test // 2)) as folder:
        assert (folder / "model.safetensors").read_bytes() == first
    assert capfd.readouterr() == ("", "")
    with product("model", replace(smoke, num_epochs=2)) as folder:
        assert (folder / "model.safetensors").read_bytes() != first
        assert json.loads((folder / "made_by.json").read_text())["parameters"]["num_epochs"] == 2
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
        assert loaded.config.id2label == {0: "negative", 1: "positive"}
        assert AutoTokenizer.from_pretrained(folder)("a film")["input_ids"][0] == 101
    said = capfd.readouterr()
    running = f"No model of these parameters in {smoke.run_dir}: running 04_training_loop.\n"
    assert running in said.out
    assert "100%|" in said.err and "| 8/8 [" in said.err


def test_the_best_epoch_is_kept_and_not_the_last(smoke, monkeypatch):
    losses = iter([0.5, 0.3, 0.4])
    weights = []
    end_epoch = Checkpoints.end_epoch

    def with_loss(checkpoints, validation_loss, accuracy):
        weights.append(checkpoints.model.classifier.weight.detach().clone())
        end_epoch(checkpoints, next(losses), accuracy)

    monkeypatch.setattr(Checkpoints, "end_epoch", with_loss)
    folder = train("model", replace(smoke, num_epochs=3))
    saved = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(saved, weights[1])
    assert not torch.equal(saved, weights[2])


def test_a_validation_loss_that_is_no_number_leaves_the_old_model(smoke, monkeypatch):
    folder = train("model", smoke)
    before = (folder / "model.safetensors").read_bytes()
    end_epoch = Checkpoints.end_epoch

    def with_nan(checkpoints, validation_loss, accuracy):
        end_epoch(checkpoints, math.nan, accuracy)

    monkeypatch.setattr(Checkpoints, "end_epoch", with_nan)
    with pytest.raises(UserError, match="not a number: try a smaller learning_rate"):
        train("model", replace(smoke, learning_rate=2e-4))
    assert (folder / "model.safetensors").read_bytes() == before
    left = sorted(path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock"))
    assert left == ["checkpoints", "data", "model"]


def test_a_device_that_is_not_there_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device 'cuda' is not there; set device to 'auto'"):
            pick_device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


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
