"""The set-up cell on a machine without the suite: an environment as Colab preloads it, an empty folder.

The project has an address that `make links` has written, and comes from a local git repository in
place of it, by git's own `insteadOf`.
"""

import json
import os
import subprocess
import sys
import tomllib
from copy import deepcopy
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from conftest import SMOKE, copy_of_project
from suite import bare_machine
from suite.chapters import all_chapters
from suite.runner import kernel_config

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What the machine has before. Newer than the suite needs, as old as it takes, and too old.
PRELOADED = {
    "torch": "2.13.0",
    "numpy": "2.2.6",
    "pandas": "2.3.3",
    "transformers": "5.0.0",
    "ipykernel": "7.0.1",
}
KEPT = ("torch", "numpy")
A_HOME = "an-owner/suite"


def git(folder, *command):
    subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A git repository with the files of this one, as they are now, an address and a tag of its release."""
    folder = copy_of_project(tmp_path_factory.mktemp("remote"), A_HOME)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    git(folder, *author, "commit", "--quiet", "--message", "All")
    git(folder, *author, "tag", f"v{PROJECT['version']}")
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment that has what Colab has, with a kernel of the name `bare`: the folder."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = [f"{name}=={version}" for name, version in PRELOADED.items()]
    pip(folder, "install", "--quiet", *wanted)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "as_in_colab.pth").write_text("import google.colab\n")
    spec = [folder / "bin" / "python", "-m", "ipykernel", "install", "--prefix", folder]
    subprocess.run([*spec, "--name", "bare"], check=True, capture_output=True)
    return folder


@pytest.fixture
def kernels(bare, remote, monkeypatch):
    """Let papermill find the kernel `bare`, and git the repository `remote`; its folder of chapters."""
    monkeypatch.setenv("JUPYTER_PATH", str(bare / "share" / "jupyter"))
    monkeypatch.setenv("PATH", f"{bare / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{remote}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"https://github.com/{A_HOME}")
    return remote / "notebooks"


def pip(bare, *command):
    command = [bare / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def versions(bare):
    listed = json.loads(pip(bare, "list", "--format", "json"))
    return {package["name"]: package["version"] for package in listed}


def run_alone(notebook, folder, parameters=SMOKE):
    """Run a notebook by the kernel `bare` in `folder`, where nothing else is."""
    nbformat.write(notebook, folder / "chapter.ipynb")
    with kernel_config() as config:
        return papermill.execute_notebook(
            folder / "chapter.ipynb",
            folder / "done.ipynb",
            parameters=parameters,
            cwd=folder,
            kernel_name="bare",
            progress_bar=False,
            config=config,
        )


def printed(cell):
    """What a cell has written to stdout; a kernel may send it in pieces."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def setup_cell(notebook):
    return next(cell for cell in notebook.cells if cell.id == "setup")


@pytest.mark.elsewhere
def test_a_kernel_that_has_loaded_what_pip_replaces_is_told_to_restart(bare, kernels, tmp_path):
    """Before anything is downloaded, and again until it is done."""
    before = versions(bare)
    assert {name: before[name].split("+")[0] for name in PRELOADED} == PRELOADED
    notebook = nbformat.read(kernels / all_chapters()[0].name, as_version=4)
    first, again = setup_cell(notebook), deepcopy(setup_cell(notebook))
    first.metadata.tags = ["raises-exception"]  # papermill goes on
    again.id = "setup-again"
    notebook.cells = [nbformat.v4.new_code_cell("import pandas"), first, again]
    with pytest.raises(PapermillExecutionError) as raised:
        run_alone(notebook, tmp_path, {})
    loaded, installed = PRELOADED["pandas"], versions(bare)["pandas"]
    said = f"pandas {loaded} is loaded, but {installed} is installed now; restart the kernel"
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert said in setup_cell(done).outputs[-1].evalue
    assert raised.value.ename == "InstallError"
    assert said in raised.value.evalue
    assert len(raised.value.traceback) == 1


@pytest.mark.elsewhere
@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_every_chapter_runs_as_a_single_file_in_an_empty_folder(path, bare, kernels, tmp_path):
    pip(bare, "uninstall", "--quiet", "--yes", "finetuning-notebooks")
    notebook = nbformat.read(kernels / path.name, as_version=4)
    place = notebook.cells.index(setup_cell(notebook))
    twice = nbformat.v4.new_code_cell(setup_cell(notebook).source, id="setup-again")
    listing = nbformat.v4.new_code_cell("!python -m pip list --format json", id="list")
    notebook.cells[place + 1 : place + 1] = [
        listing,
        twice,
        nbformat.v4.new_code_cell(listing.source, id="list-again"),
    ]
    cells = {cell.id: cell for cell in run_alone(notebook, tmp_path).cells}
    assert printed(cells["setup"]).startswith("where         Colab\n")
    for name in KEPT:
        assert f"\n{name:<14}{PRELOADED[name]}" in printed(cells["setup"])
        assert versions(bare)[name].split("+")[0] == PRELOADED[name]
    assert cells["setup-again"].outputs == []
    assert printed(cells["list-again"]) == printed(cells["list"])
    assert {file.name for file in tmp_path.iterdir()} == {
        "chapter.ipynb",
        "done.ipynb",
        "finetuning",
    }


@pytest.mark.elsewhere
def test_without_the_project_the_cell_says_so(bare, kernels, tmp_path, monkeypatch):
    pip(bare, "uninstall", "--quiet", "--yes", "finetuning-notebooks")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/nowhere.insteadOf")
    with pytest.raises(PapermillExecutionError):
        run_alone(nbformat.read(kernels / all_chapters()[0].name, as_version=4), tmp_path)
    setup = setup_cell(nbformat.read(tmp_path / "done.ipynb", as_version=4))
    assert "nowhere' does not exist" in printed(setup) or "fatal:" in printed(setup)


@pytest.mark.elsewhere
def test_the_environment_of_binder_and_studio_lab_runs_a_chapter(remote, tmp_path, loopback):
    """What pip gets of environment.yml, in a new environment. What is written stays in the project."""
    project, environment, home = tmp_path / "project", tmp_path / "environment", tmp_path / "home"
    home.mkdir()
    git(tmp_path, "clone", "--quiet", str(remote), str(project))
    dependencies = yaml.safe_load((project / "environment.yml").read_text())["dependencies"]
    (wanted,) = (item["pip"] for item in dependencies if isinstance(item, dict))
    (project / "wanted.txt").write_text("\n".join(wanted))  # as conda does
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    command = ["-m", "pip", "install", "--quiet", "--retries", "0", "--requirement", "wanted.txt"]
    done = subprocess.run(
        [environment / "bin" / "python", *command], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    size = sum(file.lstat().st_size for file in environment.rglob("*"))
    assert size < 6e9

    apart = {"HOME": str(home), "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = ["papermill", "notebooks/02_dataloaders.ipynb", "out.ipynb", "--no-progress-bar"]
    done = subprocess.run(
        [environment / "bin" / command[0], *command[1:], "-f", "parameters/smoke.yaml"],
        cwd=project,
        env={name: value for name, value in os.environ.items() if name != "HF_HOME"} | apart,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    torch = [environment / "bin" / "python", "-c", "import torch; print(torch.version.cuda)"]
    assert subprocess.run(torch, capture_output=True, text=True).stdout == "None\n"
    status = ["git", "status", "--short", "--untracked-files=all"]
    made = subprocess.run(status, cwd=project, capture_output=True, text=True).stdout.split()
    assert made[1::2] == ["out.ipynb", "wanted.txt"]
    assert (project / "runs" / "default" / "metrics.json").is_file()
    written = {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()}
    assert written <= {".cache", ".ipython"}  # IPython keeps its own folder


@pytest.fixture
def machine(monkeypatch):
    """The list of what pip was asked to do; it does nothing."""
    asked = []
    monkeypatch.setattr(bare_machine, "_pip_install", lambda *given: asked.append(given))
    monkeypatch.setattr(sys, "path", sys.path[:])
    return asked


def test_where_all_is_there_the_versions_are_shown(machine, capsys):
    bare_machine.install()
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["where"] == "this kernel"
    assert printed["python"] == sys.version.split()[0]
    assert set(printed) >= {"device", "torch", "numpy", "transformers", "datasets"}
    assert machine == [((), {name: bare_machine.version(name) for name in KEPT})]


def test_a_torch_that_is_too_old_stays_and_is_named(machine, monkeypatch):
    version = bare_machine.version
    monkeypatch.setattr(
        bare_machine, "version", lambda name: "2.8.0+cu126" if name == "torch" else version(name)
    )
    with pytest.raises(
        bare_machine.InstallError, match=r"torch 2.8.0\+cu126 is installed, the suite needs torch>="
    ) as raised:
        bare_machine.install()
    assert "\n" not in str(raised.value)
    assert machine == []


def test_a_package_loaded_in_another_version_asks_for_a_restart(machine, monkeypatch):
    import pandas

    monkeypatch.setattr(pandas, "__version__", "1.0")
    there = bare_machine.version("pandas")
    with pytest.raises(bare_machine.InstallError, match=f"^pandas 1.0 is loaded, but {there} is"):
        bare_machine.install()


def test_names_are_compared_as_pip_compares_them(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "__version__", "0.1")
    assert bare_machine._stale(["huggingface-hub"]).startswith("huggingface_hub 0.1 is loaded, but")


def test_what_pip_says_is_passed_on(monkeypatch, tmp_path):
    monkeypatch.setattr(bare_machine, "ROOT", tmp_path)
    with pytest.raises(
        bare_machine.InstallError, match="^pip could not install what is missing: ERROR: "
    ):
        bare_machine._pip_install((), {})
