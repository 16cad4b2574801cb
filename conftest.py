"""pytest for tests/ and notebooks/ alike."""

import functools
import os
import socket
from pathlib import Path

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent

# nbval's kernels listen on TCP. Unix sockets work with no network interface at all, not even the loopback.
if os.name == "posix":
    nbval.kernel.KernelManager = functools.partial(KernelManager, transport="ipc")


@pytest.fixture(scope="session")
def root():
    """The project's root folder."""
    return ROOT


@pytest.fixture
def loopback():
    """Skip where there is no loopback interface: the papermill command speaks to its kernel through it."""
    with socket.socket() as probe:
        try:
            probe.connect(("127.0.0.1", 9))
        except ConnectionRefusedError:
            return
        except OSError as error:
            pytest.skip(f"no loopback interface: {error}")


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of the default model."""
    from transformers import AutoTokenizer

    from helpers.parameters import Settings
    from helpers.sources import find_model

    return AutoTokenizer.from_pretrained(find_model(Settings().model_name))


@pytest.fixture
def smoke(tmp_path):
    """Settings small enough to train in seconds, with a run folder of their own."""
    from helpers.parameters import check_values

    return check_values({**SMOKE, "run_dir": str(tmp_path / "run")})


SMOKE = {"num_train": 64, "num_validation": 32, "num_eval": 64, "max_length": 64, "num_epochs": 1}
