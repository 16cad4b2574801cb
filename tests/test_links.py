"""Links that say where the project lies: none before it has an address, and `make links` rewrites them all."""

import re
import subprocess
from importlib import util

import pytest
import yaml
from lessons import cells_of, prose, run_python

from conftest import copy_of_project
from maintenance.links import ROOT, project, setup_cell
from suite.chapters import all_chapters

LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")
A_HOME = "some-one/their.suite"
RELEASE = f"v{project()[1]}"
BADGES = {
    "Open in Colab": "colab.research.google.com/github/some-one/their.suite/blob/{}/notebooks/{}",
    "Open in Studio Lab": "studiolab.sagemaker.aws/import/github/some-one/their.suite/blob/{}/notebooks/{}",
    "Open in Binder": "mybinder.org/v2/gh/some-one/their.suite/{}?labpath=notebooks%2F{}",
    "View source": "github.com/some-one/their.suite/blob/{}/notebooks/{}",
}


def make_links(folder, *arguments, code=0):
    return run_python("-m", "maintenance.links", *arguments, cwd=folder, code=code)


def git(folder, *command):
    command = ("git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *command)
    return subprocess.check_output(command, text=True).split()


def texts(folder):
    written = ("pyproject.toml", "*.md", "*/*.md", "notebooks/**/*.ipynb")
    paths = [path for pattern in written for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return copy_of_project(tmp_path_factory.mktemp("home"), A_HOME)


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_each_badge_opens_its_own_file_and_the_set_up_asks_for_keras_if_need_be(path, home):
    cells = cells_of(home / path.relative_to(ROOT))
    wanted = {name: f"https://{link.format(RELEASE, path.name)}" for name, link in BADGES.items()}
    readme = [(home / "README.md").read_text()] if path == all_chapters()[0] else []
    for text in (cells["title"].source, *readme):
        assert dict(LINK.findall(text.split("\n\n")[1])) == wanted
    setup = cells["setup"].source
    imported = any(re.search(r"(?m)^(import|from) keras", c.source) for c in cells.values())
    assert ('("keras")' in setup) == ('"keras_hub"' in setup) == imported
    assert (home / re.search(r'run_path\("finetuning/(.+?)"\)', setup)[1]).is_file()


def test_translated_chapters_have_the_address_of_their_own_file(home):
    code = """
from maintenance.translations import stale_cells
from suite.chapters import all_chapters, languages
print([stale_cells(path, one) for one in languages() for path in all_chapters()])
"""
    said = run_python("-c", code, cwd=home).stdout
    assert set(said) <= set("[], \n") and said.count("[]") == len(all_chapters())
    title = cells_of(home / "notebooks" / "zh" / all_chapters()[0].name)["title"].source
    assert f"blob/{RELEASE}/notebooks/zh/{all_chapters()[0].name}" in title


def test_make_links_rewrites_every_address_and_nothing_else(home, tmp_path):
    known, committed = texts(home), texts(copy_of_project(tmp_path))
    make_links(tmp_path, project()[0] or "--none")
    assert texts(tmp_path) == committed
    make_links(tmp_path, "an-owner/suite")
    moved = {name: text.replace("an-owner/suite", A_HOME) for name, text in texts(tmp_path).items()}
    assert moved == known
    assert make_links(tmp_path, "--none").stdout == "no address\n"
    without = texts(tmp_path)
    assert len(without) == len(known) > 10
    said = r"/blob/v|mybinder.org/v2|git clone \{|an-owner|some-one"
    assert not [name for name, text in without.items() if re.search(said, text)]


@pytest.mark.parametrize("missing", ["suite", "keras_hub"])
def test_without_an_address_the_set_up_cell_raises_where_something_is_missing(missing, monkeypatch):
    cell = setup_cell(None, "0.1.0", "keras")
    monkeypatch.setattr(util, "find_spec", lambda name: util)
    exec(cell, {})
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else util)
    said = "^this chapter needs the suite: .* call make lab in it$"
    with pytest.raises(RuntimeError, match=said):
        exec(cell, {})


def test_the_remote_of_git_is_the_default_and_what_is_no_repository_is_refused(tmp_path):
    before = texts(copy_of_project(tmp_path))
    for arguments, message in (
        ([], "git knows no remote `origin` here: give make links REPO=owner/name"),
        (["https://example.org/a/b"], "is no repository on GitHub: give owner/name"),
        (["suite"], "'suite' is no repository on GitHub: give owner/name"),
    ):
        done = make_links(tmp_path, *arguments, code=1)
        assert message in done.stderr and done.stderr.count("\n") == 1
        assert texts(tmp_path) == before
    git(tmp_path, "init", "--quiet")
    for form in ("git@{}:{}.git", "https://{}/{}", "ssh://git@{}/{}.git"):
        git(tmp_path, "config", "remote.origin.url", form.format("github.com", "an-owner/suite"))
        assert make_links(tmp_path).stdout == "https://github.com/an-owner/suite\n"
        assert make_links(tmp_path, "--none").stdout == "no address\n"


def test_the_first_push_to_a_repository_gives_it_its_links_and_its_tag(tmp_path):
    """The steps of the workflow, against a repository on disk; a second time they change nothing."""
    remote, clone = tmp_path / "remote", copy_of_project(tmp_path / "clone")
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["links"]
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    script = script.replace("${{ github.repository }}", A_HOME)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(remote))
    git(clone, "init", "--quiet", "--initial-branch", "main")
    git(clone, "remote", "add", "origin", str(remote))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", "All")
    for _ in range(2):
        subprocess.run(["bash", "-ec", script], cwd=clone, check=True)
        assert git(remote, "rev-parse", "main", RELEASE) == 2 * git(clone, "rev-parse", "main")
        assert git(remote, "rev-list", "--count", "main") == ["2"]
    assert f"github.com/{A_HOME}/blob/" in "".join(git(remote, "show", "main:README.md"))


def markdown(path):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return prose(path)


def anchors(path):
    """The anchors of the headings of a notebook or Markdown file, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", markdown(path)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("solutions/*.md")]


@pytest.mark.parametrize(
    "path", [*all_chapters(), *sorted(PAGES)], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_relative_links_and_anchors_exist(path):
    for _, target in LINK.findall(markdown(path)):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            there = (path.parent / file) if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target
