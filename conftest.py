"""pytest for tests/ and notebooks/ alike."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import nbval.kernel
import pytest
import yaml
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent

# For sockets and for what the 🤗 libraries would leave in the user's cache; gone after the tests.
SESSION = tempfile.TemporaryDirectory(prefix="tests-")
os.environ["HF_HOME"] = str(Path(SESSION.name, "huggingface"))


def kernel_manager(**arguments):
    """Return a KernelManager on Unix sockets: they work without any network interface."""
    socket_name = Path(tempfile.mkdtemp(dir=SESSION.name), "socket")
    return KernelManager(transport="ipc", ip=str(socket_name), **arguments)


# nbval's own kernels listen on TCP.
if os.name == "posix":
    nbval.kernel.KernelManager = kernel_manager


def pytest_collection_modifyitems(items):
    """Let one process run all tests that need the same long run (`--dist loadgroup`)."""
    for item in items:
        for fixture in ("smoke_run", "measured"):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(fixture))


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured with `record_property`, and why a known fault has shown."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value:.2g}")
    for report in terminalreporter.stats.get("xfailed", []):
        terminalreporter.write_line(f"{report.nodeid}: {report.wasxfail}")


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


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """All chapters in a process of their own, with no network but loopback where the system allows that.

    What a library calls deprecated is an error there; see STRICT.
    """
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "helpers.runner", "-f", "parameters/smoke.yaml"]
    command += ["-p", "run_dir", str(folder)]
    cut_off = (
        subprocess.run(["unshare", "-rnu", "true"], capture_output=True).returncode == 0
        if os.name == "posix"
        else False
    )
    if cut_off:
        command = ["unshare", "-rnu", sys.executable, "tests/with_loopback.py", *command]
    environment = {**os.environ, **STRICT}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return folder, run, cut_off


# Warnings of deprecation are errors, whoever raises them, but for these, which libraries raise by
# themselves whatever a chapter calls. Later entries win.
STRICT = {
    "PYTHONWARNINGS": ",".join(
        [
            "error::FutureWarning",
            "error::DeprecationWarning",
            "error::PendingDeprecationWarning",
            # ipykernel, of its own class, when a kernel ends.
            "ignore::PendingDeprecationWarning:ipykernel.kernelbase",
            # Keras turns TensorFlow's variables into NumPy arrays when it loads a model.
            "ignore:__array__ implementation:DeprecationWarning:keras.src.backend.tensorflow.core",
        ]
    ),
    # Much of what transformers calls deprecated it logs. Chapters set "error" if nothing is set.
    "TRANSFORMERS_VERBOSITY": "warning",
}
SMOKE = yaml.safe_load((ROOT / "parameters" / "smoke.yaml").read_text())


def write_rows(rows, path):
    """Write a pandas table to a file of the kind that its name ends in."""
    if path.suffix.startswith(".json"):
        rows.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    elif path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
