"""Where the project lies on the web: the links and the set-up cell that say so in chapters and README.

The address stands in pyproject.toml, under `project.urls`; `make links` writes it and all that
follows from it. Links and set-up cell name the release, so a chapter meets the helpers it was
written for.
"""

import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import quote

import nbformat

from helpers.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# git@github.com:owner/name.git, https://github.com/owner/name, owner/name
REPOSITORY = re.compile(r"(?:.*github\.com[:/])?([\w-]+)/([\w.-]+?)(?:\.git)?/?")


class LinkError(UserError):
    """The address of the project cannot be told; the message says how to give it."""


def project():
    """Return (owner/name on GitHub, release) as pyproject.toml has them."""
    values = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return values["urls"]["Repository"].removeprefix("https://github.com/"), values["version"]


def links(path, repository, release):
    """Return {label: address} of one chapter; `path` is seen from the project's root."""
    there = f"{repository}/blob/v{release}/{quote(path)}"
    return {
        "Open in Colab": f"https://colab.research.google.com/github/{there}",
        "Open in Studio Lab": f"https://studiolab.sagemaker.aws/import/github/{there}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{repository}/v{release}?labpath={quote(path, safe='')}",
        "View source": f"https://github.com/{there}",
    }


def badges(path, repository, release):
    """Return the links of one chapter as a line of Markdown."""
    found = links(path, repository, release).items()
    return " · ".join(f"[{label}]({address})" for label, address in found)


def setup_cell(repository, release, extra=""):
    """Return the source of the set-up cell. extra: optional dependencies the chapter needs."""
    modules = ["helpers", "keras_hub"] if extra else ["helpers"]
    missing = " or ".join(f'importlib.util.find_spec("{name}") is None' for name in modules)
    extra = f'"{extra}"' if extra else ""
    return f"""import importlib.util

if {missing}:
    import runpy

    suite, release = "https://github.com/{repository}", "v{release}"
    options = "--quiet --depth 1 --config advice.detachedHead=false"
    !test -d finetuning || git clone {{options}} --branch {{release}} {{suite}} finetuning
    runpy.run_path("finetuning/helpers/bare_machine.py")["install"]({extra})"""


def write_links(repository=None):
    """Write the address into pyproject.toml, README and chapters, and return "owner/name".

    repository: "owner/name" or the address of a repository on GitHub; default: git's `origin`
    Raises LinkError if it is not of that form, or not given and git knows none.
    """
    found = REPOSITORY.fullmatch(repository or _origin())
    if not found:
        raise LinkError(f"{repository or _origin()!r} is no repository on GitHub: give owner/name")
    repository = "/".join(found.groups())
    _replace(
        ROOT / "pyproject.toml",
        r'^Repository = ".*"$',
        f'Repository = "https://github.com/{repository}"',
    )
    release = project()[1]
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        line = badges(f"notebooks/{path.name}", repository, release)
        title, rest = notebook.cells[0].source.split("\n\n", 1)
        rest = rest.split("\n\n", 1)[1] if rest.startswith("[Open in ") else rest
        notebook.cells[0].source = f"{title}\n\n{line}\n\n{rest}"
        (setup,) = (cell for cell in notebook.cells if cell.id == "setup")
        setup.source = setup_cell(
            repository, release, "keras" if "keras_hub" in setup.source else ""
        )
        nbformat.write(notebook, path)
        found = links(f"notebooks/{path.name}", repository, release)
        short = " · ".join(f"[{label[8:]}]({found[label]})" for label in list(found)[:3])
        row = rf"^(\| \d+ \| \[[^]]*\]\(notebooks/{path.name}\) \|[^|]*\|).*$"
        _replace(ROOT / "README.md", row, rf"\1 {short} |")
    return repository


def _origin():
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LinkError("git knows no remote `origin` here: give make links REPO=owner/name")
    return done.stdout.strip()


def _replace(path, pattern, line):
    text, number = re.subn(pattern, line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if number != 1:
        raise LinkError(
            f"{path.name} has {number} lines of the form {pattern}, where one is needed"
        )
    path.write_text(text, encoding="utf-8")
