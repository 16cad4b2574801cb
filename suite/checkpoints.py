"""Checkpoints: what a training needs to go on after a crash as if nothing had happened.

Chapter 04 uses `Checkpoints`, chapter 08 `TrainerCheckpoints`. A checkpoint is a folder. Its
`whole.json` comes last and holds the digest of each file and the settings that it belongs to, so one
that is cut short, changed or another run's is refused. The loop's are also renamed into place when whole.
"""

import contextlib
import hashlib
import json
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from transformers import TrainerCallback

from suite.errors import UserError
from suite.runs import disk_is_full, locked, made_by, replacing, run_folder, write_json

NOT_FINITE = re.compile(r"total norm .* is non-finite")
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory")


class CheckpointError(UserError):
    """A checkpoint that a training cannot go on from."""


class TrainingError(UserError):
    """A training that had to stop; its checkpoints are there."""


class _Store:
    """The checkpoints of one training, in `run_dir/checkpoints/<road>-<digest of the settings>`.

    A context manager: from its start until `remove` no other process trains this road in this `run_dir`.
    If the block fails, what the machine or the parameters are to blame for is said in one line.
    """

    pattern = ""

    def __init__(self, settings, road):
        self.settings, self.road = settings, road
        self.stamp = made_by(settings, road)
        digest = hashlib.sha256(json.dumps(self.stamp, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = run_folder(settings) / "checkpoints" / f"{road}-{digest}"
        self.step = 0

    def __enter__(self):
        with contextlib.ExitStack() as opened:
            opened.enter_context(locked(run_folder(self.settings) / self.road))
            self.folder.mkdir(parents=True, exist_ok=True)
            for rest in self.folder.glob(".*"):
                shutil.rmtree(rest)
            self._start()
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        for folder in self._stored():
            if not (folder / "whole.json").exists():
                shutil.rmtree(folder)
        if error is None:
            return
        with self._open:
            ours = isinstance(error, UserError) or not isinstance(error, Exception)
            if not ours and (reason := self._explain(error)):
                left = [f"the last checkpoint is {folder.name}" for folder in self._stored()]
                rest = left[-1] if left else "there was no checkpoint yet"
                raise TrainingError(f"{reason}; {rest}") from error

    def remove(self):
        """Delete the checkpoints, now that the model is saved, and let other processes train."""
        with self._open:
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # other settings have checkpoints here
                self.folder.parent.rmdir()

    def newest(self):
        """Return the newest whole checkpoint or None; say of each that is refused why."""
        for folder in reversed(self._stored()):
            if fault := self._fault(folder):
                print(f"checkpoint {fault}; it is left out.")
                continue
            found = f"going on from {folder.name}"
            print(f"A training of these parameters was broken off: {found}.")
            return folder
        return None

    def _start(self):
        """Called when no other process trains this road any more."""

    def _stored(self):
        """All checkpoints, the newest last."""
        return sorted(self.folder.glob(self.pattern), key=_number)

    def _fault(self, folder):
        """Return why a checkpoint is refused, "" if it is whole and of these settings."""
        whole = _whole(folder)
        if not whole:
            return f"{folder.name} was not written to its end"
        if whole["made_by"] != self.stamp or whole["name"] != folder.name:
            return f"{folder.name} belongs to another training"
        for file, digest in whole["files"].items():
            if not (folder / file).is_file() or _digest(folder / file) != digest:
                return f"{folder.name}: {file} is not as it was written"
        its_own = whole["best"] in (None, folder.name)
        return "" if its_own else self._fault(folder.with_name(whole["best"]))

    def _seal(self, folder, name, best):
        """Write down what is in a checkpoint. This comes last: without it the folder counts for nothing."""
        files = {file.name: _digest(file) for file in sorted(folder.iterdir()) if file.is_file()}
        files.pop("whole.json", None)
        whole = {"name": name, "best": best, "made_by": self.stamp, "files": files}
        write_json(folder / "whole.json", whole)

    def _prune(self):
        """Delete all but the two newest checkpoints and, for each of them, that of its best epoch."""
        folders = self._stored()
        kept = {folder.name for folder in folders[-2:]}
        kept |= {_whole(folder).get("best") for folder in folders[-2:]}
        for folder in folders:
            if folder.name not in kept:
                shutil.rmtree(folder)

    def _explain(self, error):
        settings, message = self.settings, str(error)
        if NOT_FINITE.search(message):
            return (
                f"step {self.step + 1}: the gradient is not a finite number; make learning_rate"
                f" ({settings.learning_rate}) smaller, or raise warmup_ratio ({settings.warmup_ratio})"
            )
        if isinstance(error, MemoryError) or NO_MEMORY.search(message):
            return (
                f"step {self.step + 1}: no memory left; make batch_size ({settings.batch_size}) or"
                f" max_length ({settings.max_length}) smaller"
            )
        return disk_is_full(error, settings)


class Checkpoints(_Store):
    """The checkpoints of chapter 04's loop.

    Holds what belongs to the training beside the weights: `steps`, a list of (loss, learning rate) for
    each step, and `epochs`, a list of (validation loss, validation accuracy) for each epoch. Both are
    filled again when a training goes on.
    """

    pattern = "step-*"

    def __init__(self, settings, model, optimizer, lr_scheduler, train_dataloader):
        super().__init__(settings, "model")
        self.model, self.optimizer, self.lr_scheduler = model, optimizer, lr_scheduler
        self.train_dataloader = train_dataloader
        self.steps, self.epochs = [], []
        self._position = 0  # batches of the epoch that are done
        self._best = None  # the checkpoint of the epoch with the lowest validation loss
        self._order = train_dataloader.sampler.generator.get_state()

    def _start(self):
        if newest := self.newest():
            self._load(newest)
        else:
            _refuse_if_used(self.optimizer)

    def batches(self):
        """Yield the batches that are left of the epoch, and save every `save_steps` steps."""
        generator = self.train_dataloader.sampler.generator
        generator.set_state(self._order)
        random_state = _random_state()
        batches = iter(self.train_dataloader)
        for _ in range(self._position):
            next(batches)
        if self._position:
            _set_random_state(random_state)
        for batch in batches:
            yield batch  # when the loop asks for the next one, it is done with the step
            self.step += 1
            self._position += 1
            if self.step % self.settings.save_steps == 0:
                self.save()
        self._position, self._order = 0, generator.get_state()

    def end_epoch(self, validation_loss, accuracy):
        """Note the figures of an epoch and save.

        Raises TrainingError if the loss is not a finite number.
        """
        if not math.isfinite(validation_loss):
            raise TrainingError(
                f"epoch {len(self.epochs) + 1}: the validation loss is {validation_loss}, not a number:"
                f" try a smaller learning_rate than {self.settings.learning_rate}"
            )
        if all(validation_loss < loss for loss, _ in self.epochs):
            self._best = self._name()
        self.epochs.append((validation_loss, accuracy))
        self.save()

    def save(self):
        """Write a checkpoint; those that are no longer needed go."""
        with replacing(self.folder / self._name()) as building:
            save_model(self.model, str(building / "model.safetensors"))
            optimizer = self.optimizer.state_dict()
            tensors = {"order": self._order}
            for parameter, values in optimizer["state"].items():
                tensors |= {f"{parameter}.{n}": v.contiguous() for n, v in values.items()}
            save_file(tensors, building / "training.safetensors")
            state = {
                "step": self.step,
                "position": self._position,
                "best": self._best,
                "steps": self.steps,
                "epochs": self.epochs,
                "param_groups": optimizer["param_groups"],
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "random": _random_state(),
            }
            write_json(building / "state.json", state)
            self._seal(building, self._name(), self._best)
        self._prune()

    def load_best(self):
        """Put the weights of the epoch with the lowest validation loss into the model; return its number."""
        load_model(self.model, str(self.folder / self._best / "model.safetensors"))
        losses = [loss for loss, _ in self.epochs]
        return losses.index(min(losses)) + 1

    def _name(self):
        return f"step-{self.step:08d}"

    def _load(self, folder):
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "training.safetensors")
        load_model(self.model, str(folder / "model.safetensors"))
        self._order = tensors.pop("order")
        _set_random_state(state["random"])
        optimizer = {}
        for key, value in tensors.items():
            parameter, name = key.split(".")
            optimizer.setdefault(int(parameter), {})[name] = value
        self.optimizer.load_state_dict({"state": optimizer, "param_groups": state["param_groups"]})
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.step, self._position, self._best = state["step"], state["position"], state["best"]
        self.steps[:] = [tuple(step) for step in state["steps"]]
        self.epochs[:] = [tuple(epoch) for epoch in state["epochs"]]


class TrainerCheckpoints(_Store, TrainerCallback):
    """The checkpoints that `Trainer` writes, every `save_steps` steps and after each epoch.

    A callback, and a context manager around `train(resume_from_checkpoint=checkpoints.newest())`.
    `Trainer` does not keep the random state that an epoch began with; without it a run that goes on
    in the middle of one would draw another order of the rows.
    """

    pattern = "checkpoint-*"

    def __init__(self, settings):
        super().__init__(settings, "trainer")
        self._epoch_start = None

    def newest(self):
        """Return the newest whole checkpoint or None, and remove those that are not whole."""
        newest = super().newest()
        for folder in self._stored():
            if newest is None or _number(folder) > _number(newest):
                shutil.rmtree(folder)
        if newest:
            self._epoch_start = json.loads((newest / "epoch_start.json").read_text("utf-8"))
        return newest and str(newest)

    def on_train_begin(self, args, state, control, optimizer, **kwargs):
        if state.global_step == 0:
            _refuse_if_used(optimizer)

    def on_epoch_begin(self, args, state, control, **kwargs):
        steps_per_epoch = state.max_steps // args.num_train_epochs
        if self._epoch_start is not None and state.global_step % steps_per_epoch:
            _set_random_state(self._epoch_start)
        self._epoch_start = _random_state()

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch.nn.utils.get_total_norm(gradients, error_if_nonfinite=True)

    def on_step_end(self, args, state, control, **kwargs):
        self.step = state.global_step
        if self.step % self.settings.save_steps == 0:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        folder = self.folder / f"checkpoint-{state.global_step}"
        write_json(folder / "epoch_start.json", self._epoch_start)
        best = state.best_model_checkpoint
        self._seal(folder, folder.name, best and Path(best).name)
        self._prune()


def _refuse_if_used(optimizer):
    if optimizer.state:
        raise CheckpointError(
            "this model has been trained already, and there is no checkpoint to go on from;"
            " run the cells that make model and optimizer again, then this one"
        )


def _number(folder):
    return int(re.search(r"\d+$", folder.name)[0])


def _whole(folder):
    """What `_seal` wrote into a checkpoint; {} if it is not there, or not that."""
    try:
        whole = json.loads((folder / "whole.json").read_text(encoding="utf-8"))
        return {name: whole[name] for name in ("name", "best", "made_by", "files")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _digest(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _random_state():
    """Return what all random generators stand at, as lists of numbers."""
    kind, words, *more = np.random.get_state()
    mps = torch.backends.mps.is_available()
    return {
        "python": random.getstate(),
        "numpy": [kind, words.tolist(), *more],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()],
        "mps": torch.mps.get_rng_state().tolist() if mps else None,
    }


def _set_random_state(state):
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(torch.ByteTensor(state["torch"]))
    torch.cuda.set_rng_state_all(map(torch.ByteTensor, state["cuda"]))
    if state["mps"]:
        torch.mps.set_rng_state(torch.ByteTensor(state["mps"]))
