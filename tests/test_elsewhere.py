"""The set-up cell without the suite: with what Colab preloads, in an empty folder, the project in a git repository."""

import json
import os
import subprocess
import sys
from copy import deepcopy

import nbformat
import papermill
import pytest
import yaml
from lessons import cells_of, one_line, printed
from papermill.exceptions import PapermillExecutionError

from conftest import SMOKE, copy_of_project
from maintenance.links import project
from suite import bare_machine
from suite.bare_machine import InstallError
from suite.chapters import all_chapters
from suite.runner import kernel_config

# What the machine has before. Newer than the suite needs, as old as it takes, and too old.
PRELOADED = {"torch": "2.13.0", "numpy": "2.2.6", "pandas": "2.3.3"}
PRELOADED |= {"transformers": "5.0.0", "ipykernel": "7.0.1"}
KEPT = ("numpy", "torch")
# git takes the project from a local repository in place of this, by its own `insteadOf`.
A_HOME = "an-owner/suite"
FIRST = all_chapters()[0].name


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(environment, *command, **options):
    command = ("-m", "pip", "--disable-pip-version-check", *command)
    return call(environment / "bin" / "python", *command, **options)


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A git repository with the files of this one, as they are now, an address and a tag of its release."""
    folder = copy_of_project(tmp_path_factory.mktemp("remote"), A_HOME)
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in ("init -q", "add .", "commit -q -m All", f"tag v{project()[1]}"):
        call(*git, *command.split(), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment that has what Colab has, with a kernel of the name `bare`: the folder."""
    folder = tmp_path_factory.mktemp("bare")
    call(sys.executable, "-m", "venv", folder)
    pip(folder, "install", "--quiet", *(f"{name}=={PRELOADED[name]}" for name in PRELOADED))
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "as_in_colab.pth").write_text("import google.colab\n")
    python = folder / "bin" / "python"
    call(python, "-m", "ipykernel", "install", "--prefix", folder, "--name", "bare")
    return folder


@pytest.fixture
def chapters(bare, remote, monkeypatch):
    """Let papermill find the kernel `bare`, and git the repository `remote`; its folder of chapters."""
    monkeypatch.setenv("JUPYTER_PATH", str(bare / "share" / "jupyter"))
    monkeypatch.setenv("PATH", str(bare / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{remote}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"https://github.com/{A_HOME}")
    return remote / "notebooks"


def versions(bare):
    listed = json.loads(pip(bare, "list", "--format", "json"))
    found = {package["name"]: package["version"].split("+")[0] for package in listed}
    return {name: found[name] for name in PRELOADED}


def run_alone(notebook, folder, parameters=SMOKE):
    """Run a notebook by the kernel `bare` in `folder`, where nothing else is: ({id: cell}, error or None)."""
    nbformat.write(notebook, folder / "chapter.ipynb")
    files, error = (folder / "chapter.ipynb", folder / "done.ipynb"), None
    with kernel_config() as config:
        options = {"cwd": folder, "kernel_name": "bare", "progress_bar": False, "config": config}
        try:
            papermill.execute_notebook(*files, parameters, **options)
        except PapermillExecutionError as raised:
            error = raised
    return cells_of(files[1]), error


@pytest.mark.long
def test_a_kernel_that_has_loaded_what_pip_replaces_is_told_to_restart(bare, chapters, tmp_path):
    """Before anything is downloaded, and again until it is done."""
    assert versions(bare) == PRELOADED
    notebook = nbformat.read(chapters / FIRST, as_version=4)
    (first,) = (cell for cell in notebook.cells if cell.id == "setup")
    again = deepcopy(first)
    first.metadata.tags = ["raises-exception"]  # papermill goes on
    again.id = "setup-again"
    notebook.cells = [nbformat.v4.new_code_cell("import pandas"), first, again]
    cells, error = run_alone(notebook, tmp_path, {})
    loaded, installed = PRELOADED["pandas"], versions(bare)["pandas"]
    said = f"pandas {loaded} is loaded, but {installed} is installed now; restart the kernel"
    assert said in cells["setup"].outputs[-1].evalue
    assert error.ename == "InstallError" and said in error.evalue
    assert len(error.traceback) == 1


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


# What is installed, as JSON; pip itself takes seconds to list it.
LISTING = """
import importlib.metadata, json
found = {package.name: package.version.split("+")[0] for package in importlib.metadata.distributions()}
print(json.dumps(dict(sorted(found.items()))))
"""


# From the last to the first: what an earlier chapter makes is not there when it is needed first.
@pytest.mark.parametrize("path", all_chapters()[::-1], ids=lambda path: path.stem)
def test_every_chapter_runs_as_a_single_file_in_an_empty_folder(
    path, bare, chapters, run_dir, tmp_path
):
    pip(bare, "uninstall", "--quiet", "--yes", "finetuning-notebooks")
    notebook = nbformat.read(chapters / path.name, as_version=4)
    place = [cell.id for cell in notebook.cells].index("setup")
    added = {"list": LISTING, "setup-again": notebook.cells[place].source, "list-again": LISTING}
    notebook.cells[place + 1 : place + 1] = [
        nbformat.v4.new_code_cell(source, id=name) for name, source in added.items()
    ]
    cells, error = run_alone(notebook, tmp_path, {**SMOKE, "run_dir": str(run_dir)})
    assert error is None, error
    there = json.loads(printed(cells["list"]))
    assert printed(cells["setup"]).startswith("where         Colab\n")
    for name in KEPT:
        assert f"\n{name:<14}{PRELOADED[name]}" in printed(cells["setup"])
        assert there[name] == PRELOADED[name]
    assert cells["setup-again"].outputs == []
    assert printed(cells["list-again"]) == printed(cells["list"])
    found = {file.name for file in tmp_path.iterdir()}
    assert found == {"chapter.ipynb", "done.ipynb", "finetuning"}


@pytest.mark.long
def test_without_the_project_the_cell_says_so(bare, chapters, tmp_path, monkeypatch):
    pip(bare, "uninstall", "--quiet", "--yes", "finetuning-notebooks")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/nowhere.insteadOf")
    cells, error = run_alone(nbformat.read(chapters / FIRST, as_version=4), tmp_path)
    said = printed(cells["setup"])
    assert error and ("nowhere' does not exist" in said or "fatal:" in said)


# No mark of its own, or it would come before those that look for the preloaded versions.
def test_the_environment_of_binder_and_studio_lab_runs_a_chapter(bare, remote, tmp_path, loopback):
    """With what pip makes of environment.yml where the tests above left all that the chapters need.

    What is written stays in the project.
    """
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    call("git", "clone", "--quiet", remote, clone)
    dependencies = yaml.safe_load((clone / "environment.yml").read_text())["dependencies"]
    (wanted,) = (item["pip"] for item in dependencies if isinstance(item, dict))
    (clone / "wanted.txt").write_text("\n".join(wanted))  # as conda does
    options = ("--quiet", "--no-compile", "--retries", "0", "--requirement", "wanted.txt")
    pip(bare, "install", *options, cwd=clone)
    assert sum(file.lstat().st_size for file in bare.rglob("*")) < 6e9

    apart = {name: value for name, value in os.environ.items() if name != "HF_HOME"}
    apart |= {"HOME": str(home), "PATH": f"{bare / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [bare / "bin" / "papermill", "notebooks/02_dataloaders.ipynb", "out.ipynb"]
    options = ("--no-progress-bar", "-f", "parameters/smoke.yaml")
    call(*command, *options, cwd=clone, env=apart)
    torch = "import torch; print(torch.version.cuda)"
    assert call(bare / "bin" / "python", "-c", torch) == "None\n"
    made = call("git", "status", "--short", "--untracked-files=all", cwd=clone).split()
    assert made[1::2] == ["out.ipynb", "wanted.txt"]
    assert (clone / "runs" / "default" / "metrics.json").is_file()
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
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (table["where"], table["python"]) == ("this kernel", sys.version.split()[0])
    assert set(table) >= {"device", "torch", "numpy", "transformers", "datasets"}
    assert machine == [((), {name: bare_machine.version(name) for name in KEPT})]


def test_a_torch_that_is_too_old_stays_and_is_named(machine, monkeypatch):
    found = {name: bare_machine.version(name) for name in KEPT} | {"torch": "2.8.0+cu126"}
    monkeypatch.setattr(bare_machine, "version", found.get)
    said = r"^torch 2.8.0\+cu126 is installed, the suite needs torch>=.*"
    with pytest.raises(InstallError, match=said, check=one_line()):
        bare_machine.install()
    assert machine == []


def test_a_package_loaded_in_another_version_asks_for_a_restart(machine, monkeypatch):
    """pip knows this one by another name, with a hyphen."""
    monkeypatch.setattr("huggingface_hub.__version__", "0.1")
    with pytest.raises(InstallError, match="^huggingface_hub 0.1 is loaded, but"):
        bare_machine.install()


def test_what_pip_says_is_passed_on(monkeypatch, tmp_path):
    monkeypatch.setattr(bare_machine, "ROOT", tmp_path)
    with pytest.raises(InstallError, match="^pip could not install what is missing: ERROR: "):
        bare_machine._pip_install((), {})
