"""pytest for tests/ and notebooks/ alike."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
import nbval.kernel
import psutil
import pytest
import yaml
from jupyter_client.manager import KernelManager
from nbformat.v4 import new_code_cell

from suite.chapters import NOTEBOOKS, all_chapters, languages, plan
from suite.start import check_values

ROOT = Path(__file__).resolve().parent

# For sockets and for what the 🤗 libraries would leave in the user's cache; gone after the tests.
# All processes of pytest-xdist share that cache.
SESSION = tempfile.TemporaryDirectory(prefix="tests-")
os.environ["HF_HOME"] = os.environ.setdefault("TESTS_HF_HOME", f"{SESSION.name}/huggingface")


def kernel_manager(**arguments):
    """Return a KernelManager on Unix sockets: they work without any network interface."""
    socket_name = Path(tempfile.mkdtemp(dir=SESSION.name), "socket")
    return KernelManager(transport="ipc", ip=str(socket_name), **arguments)


# nbval's own kernels listen on TCP.
if os.name == "posix":
    nbval.kernel.KernelManager = kernel_manager


# Fixtures that take long to make: one process runs all their tests. The longest come first.
SHARED = ("bare", "smoke_run", "lab", "measured", "trapped", "hub", "checked")
SHARED += ("two_trainings", "one_process")
# These take so long that `make test` leaves their tests to `make test-long`.
LONG = ("bare", "smoke_run", "measured")


def groups():
    """Return {chapter: number of the process that compares it with its stored outputs}, in order.

    Speeds are not compared, so the chapters that measure them may run beside others here.
    """
    rows, alone = plan(all_chapters(), 2)
    for number, path in enumerate(alone):
        rows[number % 2].append(path)
    found = {path: number for number, row in enumerate(rows) for path in row}
    twins = [path for language in languages() for path in all_chapters(language)]
    return found | {path: found[NOTEBOOKS / path.name] for path in twins}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist writes the groups into the names of the tests
def pytest_collection_modifyitems(items):
    """Let one process run all tests that need the same long run (`--dist loadgroup`), and first.

    The chapters before them, and what trains or starts a kernel before what does not.
    """
    rows = groups()
    order = {}
    for item in items:
        place = len(SHARED) + (0 if item.get_closest_marker("slow") else 1)
        if item.get_closest_marker("long"):
            place = -1
        if item.path in rows:
            item.add_marker(pytest.mark.xdist_group(f"chapters-{rows[item.path]}"))
            place = list(rows).index(item.path) - len(rows) - 1
        for fixture in SHARED:
            if fixture in getattr(item, "fixturenames", ()):
                group = fixture
                if fixture == "lab":  # one for each process
                    group = f"lab-{rows[item.callspec.params['path']]}"
                item.add_marker(pytest.mark.xdist_group(group))
                place = min(place, SHARED.index(fixture))
                if fixture in LONG:
                    item.add_marker(pytest.mark.long)
                elif fixture == "trapped":
                    item.add_marker(pytest.mark.slow)
        order[item] = place
    items.sort(key=order.get)


def pytest_terminal_summary(terminalreporter):
    """Print the groups of tests with their seconds, what tests measured, and why a known fault has shown."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("seconds of each group, of all processes together")
    for group, total in seconds.most_common():
        terminalreporter.write_line(f"{total:7.1f}  {group}")
    terminalreporter.write_line(f"{sum(seconds.values()):7.1f}  all")
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


SCREENSHOTS = ROOT / "runs" / "screenshots"
MINUTE = 60_000  # milliseconds, as Playwright counts
WIDTH, HEIGHT = 1280, 900


def free_port():
    """Return the number of a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    if path is None:
        pytest.fail("there is no Chromium: install the package `chromium`")
    with sync_playwright() as running:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page of Chromium."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(MINUTE)
    yield page
    page.close()


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of the default model."""
    from transformers import AutoTokenizer

    from suite.resolve import find_model
    from suite.settings import Settings

    return AutoTokenizer.from_pretrained(find_model(Settings().model_name))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tokenizer):
    """The folder of a BERT of random weights, with the default model's tokens: it trains in moments."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=64, **sizes)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def smoke(tmp_path, tiny_model):
    """Settings to train a tiny model with in moments, with a run folder of their own."""
    return check_values({**SMOKE, "model_name": tiny_model, "run_dir": str(tmp_path / "run")})


@pytest.fixture
def twenty_classes(tmp_path):
    """The names of 20 classes, and parameters for an own file of them.

    Some of them are missing among so few training rows.
    """
    names = sorted(f"topic {n}" for n in range(20))
    rows = [f"{name} in text number {n}\t{name}" for n in range(25) for name in names]
    path = tmp_path / "own.tsv"
    path.write_text("\n".join(["review\tsubject", *rows]) + "\n")
    columns = {"text_column": "review", "label_column": "subject"}
    return names, {**SMOKE, "dataset_name": str(path), **columns}


@pytest.fixture(scope="session", params=languages())
def smoke_run(request, tmp_path_factory):
    """All chapters of a copy, in another language, whose exercises are answered, in a process of its own.

    Their code is that of the English ones (tests/test_translations.py), which run in other tests.
    With no network but loopback where the system allows that. What a library calls deprecated is an
    error there; see STRICT.
    """
    folder, project = tmp_path_factory.mktemp("smoke"), tmp_path_factory.mktemp("project")
    copy_of_project(project)
    for path in (project / "notebooks" / request.param).glob("*.ipynb"):
        answer_exercises(path)
    command = [sys.executable, "-m", "suite", "run", "-f", "parameters/smoke.yaml"]
    command += ["--side-by-side", "--language", request.param, "-p", "run_dir", str(folder)]
    cut_off = ["unshare", "-rnu", sys.executable, "tests/with_loopback.py"]
    able = shutil.which("unshare") and subprocess.run([*cut_off, "true"], capture_output=True)
    if able and able.returncode == 0:
        command = [*cut_off, *command]
    environment = {**os.environ, **STRICT}
    run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder, run


def answer_exercises(path):
    """Answer a chapter's exercises: first the mistake of the solutions, then right, each with its check."""
    from suite.exercises import read_solutions

    notebook = nbformat.read(path, as_version=4)
    for number, (_, answer, _, mistake) in read_solutions(path.stem).items():
        place = [cell.id for cell in notebook.cells].index(f"exercise-{number}-answer")
        notebook.cells[place].source = answer
        its_check = notebook.cells[place + 1].source
        notebook.cells[place:place] = [
            new_code_cell(mistake, id=f"exercise-{number}-mistake"),
            new_code_cell(its_check, id=f"exercise-{number}-mistake-check"),
        ]
    nbformat.write(notebook, path)


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


def where_all_stand(run, log):
    """Return what has been logged and the stack of each process that `run` has started; end them."""
    processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    log.seek(0)
    said = [log.read()[-6000:]]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            said += [f"child of {process.ppid()}, {process.status()}", *process.net_connections()]
            dump = [Path(sys.executable).with_name("py-spy"), "dump", "--native", "--pid"]
            dump = subprocess.run([*dump, str(process.pid)], capture_output=True, text=True)
            said.append(dump.stdout)
    for process in reversed(processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()
    return "\n".join(map(str, said))


def copy_of_project(folder, address=None):
    """Copy the project to `folder`, as it is or with the links of an address; "--none": without any."""
    junk = (".git", ".venv*", ".*_cache", ".ipynb_checkpoints", "__pycache__", "*.egg-info", "runs")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*junk), dirs_exist_ok=True)
    if address:
        command = [sys.executable, "-m", "maintenance.links", address]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def write_rows(rows, path):
    """Write a pandas table to a file of the kind that its name ends in."""
    if path.suffix.startswith(".json"):
        rows.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    elif path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
