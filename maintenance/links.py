"""Where the project lies on the web: the links and the set-up cell that say so in chapters and README.

The address stands in pyproject.toml, under `project.urls`, once `make links` has written it, with all
that follows from it. Until then there are no links, and the set-up cell fetches nothing. Links and
set-up cell name the release, so a chapter meets the code it was written for.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from urllib.parse import quote

from suite.chapters import NOTEBOOKS, ROOT, all_chapters
from suite.errors import UserError

# git@github.com:owner/name.git, https://github.com/owner/name, owner/name
REPOSITORY = re.compile(r"(?:.*github\.com[:/])?([\w-]+)/([\w.-]+?)(?:\.git)?/?")


class LinkError(UserError):
    """The address of the project cannot be told; the message says how to give it."""


def project():
    """Return (owner/name on GitHub or None, release) as pyproject.toml has them."""
    values = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = values["urls"].get("Repository")
    return address and address.removeprefix("https://github.com/"), values["version"]


def links(path, repository, release):
    """Return {label: address} of one chapter; `path` is seen from the project's root."""
    there = f"{repository}/blob/v{release}/{quote(path)}"
    return {
        "Open in Colab": f"https://colab.research.google.com/github/{there}",
        "Open in Studio Lab": f"https://studiolab.sagemaker.aws/import/github/{there}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{repository}/v{release}?labpath={quote(path, safe='')}",
        "View source": f"https://github.com/{there}",
    }


def setup_cell(repository, release, extra=""):
    """Return the source of the set-up cell. extra: optional dependencies the chapter needs."""
    modules = ["suite", "keras_hub"] if extra else ["suite"]
    missing = " or ".join(f'importlib.util.find_spec("{name}") is None' for name in modules)
    extra = f'"{extra}"' if extra else ""
    start = f"import importlib.util\n\nif {missing}:"
    if repository is None:
        return f"""{start}
    raise RuntimeError("this chapter needs the suite: clone the project, call make lab in it")"""
    return f"""{start}
    import runpy

    suite, release = "https://github.com/{repository}", "v{release}"
    options = "--quiet --depth 1 --config advice.detachedHead=false"
    !test -d finetuning || git clone {{options}} --branch {{release}} {{suite}} finetuning
    runpy.run_path("finetuning/suite/bare_machine.py")["install"]({extra})"""


def write_links(repository):
    """Write the address into pyproject.toml, README and chapters, or take it out of them.

    repository: "owner/name" on GitHub, or None for no address
    """
    line = f'Repository = "https://github.com/{repository}"\n' if repository else ""
    section = re.compile(r"^(\[project\.urls\]\n)(?:Repository = .*\n)?", re.MULTILINE)
    _edit(ROOT / "pyproject.toml", lambda text: section.sub(rf"\1{line}", text))
    release = project()[1]

    def edit_chapter(text):
        notebook = json.loads(text)
        title = notebook["cells"][0]
        (setup,) = (cell for cell in notebook["cells"] if cell["id"] == "setup")
        extra = "keras" if "keras_hub" in "".join(setup["source"]) else ""
        badges = with_badges("".join(title["source"]), path, repository, release)
        title["source"] = badges.splitlines(keepends=True)
        setup["source"] = setup_cell(repository, release, extra).splitlines(keepends=True)
        return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"  # as nbformat writes it

    for path in NOTEBOOKS.glob("**/[0-9]*.ipynb"):  # in every language
        _edit(path, edit_chapter)
    first = all_chapters()[0]
    _edit(ROOT / "README.md", lambda text: with_badges(text, first, repository, release))


def _edit(path, change):
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_badges(text, path, repository, release):
    """Return a text with the links of a chapter below its title, in place of those that are there."""
    found = links(path.relative_to(ROOT).as_posix(), repository, release) if repository else {}
    line = " · ".join(f"[{label}]({address})" for label, address in found.items())
    title, rest = text.split("\n\n", 1)
    rest = rest.split("\n\n", 1)[1] if rest.startswith("[Open in ") else rest
    return "\n\n".join([title, line, rest] if line else [title, rest])


def _repository(address):
    """Return "owner/name" of an address on GitHub, by default that of git's remote `origin`."""
    if address is None:
        command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LinkError("git knows no remote `origin` here: give make links REPO=owner/name")
        address = done.stdout.strip()
    if found := REPOSITORY.fullmatch(address):
        return "/".join(found.groups())
    raise LinkError(f"{address!r} is no repository on GitHub: give owner/name")


def main():
    """Command line. It needs nothing but Python, so a workflow calls it without a set-up."""
    parser = argparse.ArgumentParser(prog="make links", description=__doc__)
    parser.add_argument("repository", nargs="?", help="owner/name on GitHub; default: git's origin")
    parser.add_argument("--none", action="store_true", help="take the address out again")
    arguments = parser.parse_args()
    try:
        repository = None if arguments.none else _repository(arguments.repository)
        write_links(repository)
    except LinkError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"https://github.com/{repository}" if repository else "no address")


if __name__ == "__main__":
    main()
