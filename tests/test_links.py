"""Links that say where the project lies: each opens its own file, and `make links` rewrites them all."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import nbformat
import pytest

from helpers.runner import all_chapters

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")
WRITTEN = ("pyproject.toml", "README.md", "helpers", "notebooks")


def repository(root=ROOT):
    """owner/name and release of the project in `root`."""
    values = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    owner, name = urlsplit(values["urls"]["Repository"]).path.strip("/").split("/")
    return f"{owner}/{name}", values["version"]


def opened(address):
    """(host, owner/name, revision, file) that an address opens."""
    parts = urlsplit(address)
    if parts.netloc == "mybinder.org":
        kind, owner, name, revision = parts.path.removeprefix("/v2/").split("/")
        assert kind == "gh"
        return parts.netloc, f"{owner}/{name}", revision, parse_qs(parts.query)["labpath"][0]
    path = re.sub(r"^/(import/)?(github/)?", "", parts.path)
    owner, name, blob, revision, file = path.split("/", 4)
    assert blob == "blob" and not parts.query
    return parts.netloc, f"{owner}/{name}", revision, unquote(file)


HOSTS = {
    "Open in Colab": "colab.research.google.com",
    "Open in Studio Lab": "studiolab.sagemaker.aws",
    "Open in Binder": "mybinder.org",
    "View source": "github.com",
}


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_each_badge_opens_its_own_file(path):
    name, release = repository()
    cell = nbformat.read(path, as_version=4).cells[0]
    found = {label: opened(link) for label, link in LINK.findall(cell.source.split("\n\n")[1])}
    file = path.relative_to(ROOT).as_posix()
    assert found == {label: (HOSTS[label], name, f"v{release}", file) for label in HOSTS}
    (row,) = (
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if "| [" in line and file in line
    )
    short = {f"Open in {label}": opened(link) for label, link in LINK.findall(row)[-3:]}
    assert short == {label: found[label] for label in list(HOSTS)[:3]}


def copy(folder):
    for name in WRITTEN:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        else:
            shutil.copy(source, folder)
    return folder


def make_links(folder, *arguments):
    command = [sys.executable, "-m", "helpers.maintenance", "links", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def texts(folder):
    return {
        path.relative_to(folder): path.read_text()
        for name in WRITTEN
        for path in [folder / name, *(folder / name).rglob("*.*")]
        if path.suffix in (".toml", ".md", ".ipynb")
    }


def test_make_links_rewrites_every_address_and_nothing_else(tmp_path):
    before = texts(copy(tmp_path))
    old, _ = repository()
    done = make_links(tmp_path, "--repo", "some-one/their.suite")
    assert done.stdout == "https://github.com/some-one/their.suite\n", done.stderr
    after = texts(tmp_path)
    assert repository(tmp_path)[0] == "some-one/their.suite"
    assert not [path for path, text in after.items() if old in text]
    assert {
        path: text.replace("some-one/their.suite", old) for path, text in after.items()
    } == before
    assert make_links(tmp_path, "--repo", "some-one/their.suite").returncode == 0
    assert texts(tmp_path) == after


@pytest.mark.parametrize(
    "remote",
    [
        "git@github.com:an-owner/suite.git",
        "https://github.com/an-owner/suite",
        "ssh://git@github.com/an-owner/suite.git",
    ],
)
def test_the_remote_of_git_is_the_default(remote, tmp_path):
    for command in (["init", "--quiet"], ["remote", "add", "origin", remote]):
        subprocess.run(
            ["git", *command], cwd=copy(tmp_path) if command[0] == "init" else tmp_path, check=True
        )
    assert make_links(tmp_path).stdout == "https://github.com/an-owner/suite\n"
    assert repository(tmp_path)[0] == "an-owner/suite"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "git knows no remote `origin` here: give make links REPO=owner/name"),
        (["--repo", "https://example.org/a/b"], "is no repository on GitHub: give owner/name"),
        (["--repo", "suite"], "'suite' is no repository on GitHub: give owner/name"),
    ],
    ids=["no remote", "elsewhere", "no owner"],
)
def test_what_is_no_repository_is_refused_in_one_line(arguments, message, tmp_path):
    before = texts(copy(tmp_path))
    done = make_links(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert texts(tmp_path) == before


def anchors(path):
    """The anchors of the headings of a notebook or Markdown file, as GitHub makes them."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [ROOT / "README.md", *all_chapters(), *sorted((ROOT / "solutions").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_relative_links_and_anchors_exist(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for _, target in LINK.findall(text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            there = (path.parent / file) if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target
