"""The training loop in several processes, with 🤗 Accelerate. Chapter 09 teaches it.

Start it with `accelerate launch --num_processes 2 -m helpers.distributed FOLDER`. FOLDER holds
`settings.json`; `metrics.json` and the folder `model` are written beside it.
"""

import argparse
import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding, get_scheduler
from transformers.trainer_pt_utils import LengthGroupedSampler

from helpers.batches import make_dataloader, to_model_inputs
from helpers.data import prepare_data
from helpers.errors import UserError
from helpers.parameters import Settings
from helpers.runs import HELPERS, write_json
from helpers.sources import find_model
from helpers.training import load_model, parameter_groups, weigh_classes

# Steps that are left out of the speed: in the first ones buffers are made and caches warm up.
WARM_UP = 3


class LaunchError(UserError):
    """Several processes cannot be started from here; the message says why."""


def make_grouped_dataloader(rows, tokenizer, batch_size, num_processes, seed):
    """Return a DataLoader; the batches of a step, one a process, have texts of like length.

    Defined in chapter 09.
    """
    lengths = [len(input_ids) for input_ids in rows["input_ids"]]
    generator = torch.Generator().manual_seed(seed)
    sampler = LengthGroupedSampler(batch_size * num_processes, lengths=lengths, generator=generator)
    collator = DataCollatorWithPadding(tokenizer)
    return DataLoader(rows, batch_size, sampler=sampler, collate_fn=collator)


def train_one_epoch_distributed(
    accelerator, model, train_dataloader, optimizer, lr_scheduler, max_grad_norm
):
    """Train on this process's share of the batches; return (loss, end time) of each step.

    The loss is the mean over all processes. Defined in chapter 09.
    """
    steps = []
    model.train()
    for batch in train_dataloader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        steps.append((accelerator.reduce(loss.detach(), "mean").item(), perf_counter()))
    return steps


def evaluate_distributed(accelerator, model, dataloader):
    """Return the accuracy over all rows, and how many rows were counted. Defined in chapter 09."""
    right = rows = 0
    model.eval()
    for batch in dataloader:
        with torch.inference_mode():
            predictions = model(**batch).logits.argmax(dim=-1)
        predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
        right += (predictions == labels).sum().item()
        rows += len(labels)
    return right / rows, rows


def seconds_of_all_reduce(accelerator, model, repeats=5):
    """Return how long it takes to add up a tensor as large as all gradients over all processes."""
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    gradients = torch.ones(size, device=accelerator.device)
    accelerator.reduce(gradients)[0].item()
    start = perf_counter()
    for _ in range(repeats):
        accelerator.reduce(gradients)[0].item()  # waits until a GPU has finished
    return (perf_counter() - start) / repeats


def share_threads():
    """Give each process of this machine its share of the cores, unless the launcher has done so."""
    if "OMP_NUM_THREADS" not in os.environ:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def stay_on_loopback():
    """Let gloo connect the processes of one machine over its loopback interface.

    gloo's own choice follows the machine's name, so a job would stop for good when the network that
    has given the name its address goes away. `accelerate.debug_launcher` does the same.
    """
    if os.environ.get("WORLD_SIZE", "1") == os.environ.get("LOCAL_WORLD_SIZE", "1"):
        for _, name in socket.if_nameindex():
            if name in ("lo", "lo0"):  # Linux, macOS
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def train_distributed(folder):
    """Train as `folder/settings.json` says; every process runs this.

    Writes `model` and `metrics.json` into `folder`. With `"dropout": false` in settings.json
    nothing random happens in a step, so that runs can be compared to the last digits.
    """
    values = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    dropout = values.pop("dropout", True)
    settings = Settings(**values)
    share_threads()
    stay_on_loopback()
    accelerator = Accelerator(cpu=settings.device == "cpu" or not torch.cuda.is_available())
    with accelerator.main_process_first():  # the others find what it has prepared
        dataset = prepare_data(settings)
    rows = to_model_inputs(dataset)
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    class_label = dataset["train"].features["label"]
    model = load_model(settings.model_name, class_label, settings.attention_dropout, settings.seed)
    weigh_classes(model, rows["train"]["labels"][:], settings.class_weights)
    set_seed(settings.seed, device_specific=True)  # or all processes drop the same values
    if not dropout:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    train_dataloader = make_grouped_dataloader(
        rows["train"], tokenizer, settings.batch_size, accelerator.num_processes, settings.seed
    )
    optimizer = AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True
    )
    model, optimizer, train_dataloader, eval_dataloader = accelerator.prepare(
        model,
        optimizer,
        train_dataloader,
        make_dataloader(rows["eval"], tokenizer, settings.batch_size),
    )
    num_training_steps = settings.num_epochs * len(train_dataloader)
    lr_scheduler = get_scheduler(
        name="linear",
        optimizer=optimizer,
        num_warmup_steps=int(settings.warmup_ratio * num_training_steps),
        num_training_steps=num_training_steps,
    )
    steps = []
    for _ in range(settings.num_epochs):
        steps += train_one_epoch_distributed(
            accelerator, model, train_dataloader, optimizer, lr_scheduler, settings.max_grad_norm
        )
    accuracy, counted = evaluate_distributed(accelerator, model, eval_dataloader)
    skipped = min(WARM_UP, len(steps) - 1)
    seconds = (steps[-1][1] - steps[skipped - 1][1]) / (len(steps) - skipped)
    metrics = {
        "processes": accelerator.num_processes,
        "texts_a_step": settings.batch_size * accelerator.num_processes,
        "steps": len(steps),
        "losses": [loss for loss, _ in steps],
        "accuracy": accuracy,
        "rows_counted": counted,
        "seconds_a_step": seconds,
        "seconds_of_all_reduce": seconds_of_all_reduce(accelerator, model),
    }
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        folder / "model",
        is_main_process=accelerator.is_main_process,
        state_dict=accelerator.get_state_dict(model),
    )
    if accelerator.is_main_process:
        write_json(folder / "metrics.json", metrics)
    # DDP must not be the last to hold the process group: its destructor keeps the GIL and joins
    # gloo's threads, which may wait for the GIL to free a tensor.
    accelerator.free_memory()
    del model
    accelerator.end_training()


def write_settings(settings, folder, **changes):
    """Write `folder/settings.json` for `train_distributed`, with some values changed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "settings.json", asdict(settings) | changes)


def check_before_launch(num_processes, device):
    """Raise LaunchError unless `notebook_launcher` can start `num_processes` from this kernel.

    It makes copies of this process. A copy cannot use a GPU that the process has touched, nor an
    Accelerator that it has made. device: "cpu" if no GPU is to be used. Touches no GPU itself.
    """
    if AcceleratorState._shared_state:
        raise LaunchError("a cell has made an Accelerator: restart the kernel, launch first")
    if device == "cpu":
        return
    devices = torch.cuda.device_count()
    if torch.cuda.is_initialized():
        raise LaunchError("a cell has used the GPU already: restart the kernel, launch first")
    if num_processes > devices:
        there = "there is 1 GPU" if devices == 1 else f"there are {devices} GPUs"
        raise LaunchError(f"{num_processes} processes asked for, but {there}")


def launch_command(folder, num_processes, config="cpu"):
    """Return the command that trains as `folder/settings.json` says, with a file of `helpers/launch`."""
    config = HELPERS / "launch" / f"{config}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--num_processes", str(num_processes), "--main_process_port", "0"]
    return [*command, "-m", "helpers.distributed", str(folder)]


def all_reduce_seconds(num_bytes, num_processes, bytes_a_second):
    """Return how long a ring takes to add up `num_bytes` over all processes.

    Each process sends and receives `2 · (n - 1) / n` times the bytes (Patarasuk and Yuan, 2009).
    Defined in chapter 09.
    """
    return 2 * (num_processes - 1) / num_processes * num_bytes / bytes_a_second


def main(arguments=None):
    """Command line of each process."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m helpers.distributed")
    parser.add_argument("folder", type=Path, help="holds settings.json; results go there")
    train_distributed(parser.parse_args(arguments).folder)


if __name__ == "__main__":
    main()
