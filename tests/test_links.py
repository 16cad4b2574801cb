"""Links that say where the project lies: none before it has an address, and `make links` rewrites them all."""

import json
import re
import subprocess
import sys
from importlib import util
from urllib.parse import parse_qs, unquote, urlsplit

import nbformat
import pytest
import yaml

from conftest import copy_of_project
from maintenance.links import ROOT, project, setup_cell
from suite.chapters import all_chapters

LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")
A_HOME = "some-one/their.suite"
HOSTS = {
    "Open in Colab": "colab.research.google.com",
    "Open in Studio Lab": "studiolab.sagemaker.aws",
    "Open in Binder": "mybinder.org",
    "View source": "github.com",
}


def make_links(folder, *arguments):
    command = [sys.executable, "-m", "maintenance.links", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def git(folder, *command):
    done = subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()


def texts(folder):
    written = ("pyproject.toml", "*.md", "*/*.md", "notebooks/*.ipynb")
    paths = [path for pattern in written for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the project that knows its address."""
    return copy_of_project(tmp_path_factory.mktemp("home"), A_HOME)


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


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_each_badge_opens_its_own_file(path, home):
    def badges(text):
        return {label: opened(link) for label, link in LINK.findall(text.split("\n\n")[1])}

    file = path.relative_to(ROOT).as_posix()
    found = badges(nbformat.read(home / file, as_version=4).cells[0].source)
    release = f"v{project()[1]}"
    assert found == {label: (HOSTS[label], A_HOME, release, file) for label in HOSTS}
    if path == all_chapters()[0]:
        assert badges((home / "README.md").read_text()) == found


def test_make_links_rewrites_every_address_and_nothing_else(home, tmp_path):
    known, committed = texts(home), texts(copy_of_project(tmp_path))
    assert make_links(tmp_path, project()[0] or "--none").returncode == 0
    assert texts(tmp_path) == committed
    assert make_links(tmp_path, "an-owner/suite").returncode == 0
    moved = {name: text.replace("an-owner/suite", A_HOME) for name, text in texts(tmp_path).items()}
    assert moved == known
    assert make_links(tmp_path, "--none").stdout == "no address\n"
    without = texts(tmp_path)
    assert len(without) == len(known) > 10
    for name, text in without.items():
        said = re.findall(r"/blob/v|mybinder.org/v2|git clone \{|an-owner|some-one", text)
        assert not said, f"{name}: {said}"


@pytest.mark.parametrize("missing", ["suite", "keras_hub", None])
def test_without_an_address_the_set_up_cell_raises_where_something_is_missing(missing, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else util)
    cell = setup_cell(None, "0.1.0", "keras")
    if missing is None:
        return exec(cell, {})
    with pytest.raises(
        RuntimeError, match="^this chapter needs the suite: .* call make lab in it$"
    ):
        exec(cell, {})


def test_the_set_up_cell_asks_for_keras_where_a_chapter_imports_it(home):
    for path in sorted((home / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        (setup,) = (cell.source for cell in cells if cell.id == "setup")
        imported = any(re.search(r"^(import|from) keras", c.source, re.MULTILINE) for c in cells)
        assert ('("keras")' in setup) == ('"keras_hub"' in setup) == imported, path.stem
        assert (home / re.search(r'run_path\("finetuning/(.+?)"\)', setup)[1]).is_file()


@pytest.mark.parametrize("form", ["git@{}:{}.git", "https://{}/{}", "ssh://git@{}/{}.git"])
def test_the_remote_of_git_is_the_default(form, tmp_path):
    git(copy_of_project(tmp_path), "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", form.format("github.com", "an-owner/suite"))
    assert make_links(tmp_path).stdout == "https://github.com/an-owner/suite\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "git knows no remote `origin` here: give make links REPO=owner/name"),
        (["https://example.org/a/b"], "is no repository on GitHub: give owner/name"),
        (["suite"], "'suite' is no repository on GitHub: give owner/name"),
    ],
)
def test_what_is_no_repository_is_refused_in_one_line(arguments, message, tmp_path):
    before = texts(copy_of_project(tmp_path))
    done = make_links(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert texts(tmp_path) == before


def test_the_first_push_to_a_repository_gives_it_its_links_and_its_tag(tmp_path):
    """The steps of the workflow, against a repository on disk; a second time they change nothing."""
    remote, clone = tmp_path / "remote", copy_of_project(tmp_path / "clone")
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["links"][
        "steps"
    ]
    script = "\n".join(step["run"] for step in steps if "run" in step)
    script = script.replace("${{ github.repository }}", A_HOME)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(remote))
    git(clone, "init", "--quiet", "--initial-branch", "main")
    git(clone, "remote", "add", "origin", str(remote))
    git(clone, "add", ".")
    git(clone, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "All")
    for _ in range(2):
        subprocess.run(["bash", "-ec", script], cwd=clone, check=True, capture_output=True)
        heads = git(remote, "rev-parse", "main", f"v{project()[1]}")
        assert heads == 2 * git(clone, "rev-parse", "main")
        assert git(remote, "rev-list", "--count", "main") == ["2"]
    assert f"github.com/{A_HOME}/blob/" in "".join(git(remote, "show", "main:README.md"))


def markdown(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return text


def anchors(path):
    """The anchors of the headings of a notebook or Markdown file, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", markdown(path), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [path for name in ("*.md", "docs/*.md", "solutions/*.md") for path in ROOT.glob(name)]
PAGES = [*all_chapters(), *sorted(PAGES)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_relative_links_and_anchors_exist(path):
    for _, target in LINK.findall(markdown(path)):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            there = (path.parent / file) if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target
