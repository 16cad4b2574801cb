"""The files around the chapters say the same things as the chapters do."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.maintenance import lowest
from helpers.parameters import PARAMETERS, check_values
from helpers.runner import all_chapters

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text(encoding="utf-8")
REQUIREMENTS = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PYPROJECT["project"]["optional-dependencies"].items()
}


def recipe(target):
    """The commands of a make target."""
    return re.search(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)[1]


def imported(source):
    """Names of the top-level modules that a source imports."""
    source = re.sub(r"^\s*%.*$", "pass", source, flags=re.MULTILINE) if "%" in source else source
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def third_party(sources):
    return (
        {name for source in sources for name in imported(source)}
        - set(sys.stdlib_module_names)
        - {
            "benchmarks",
            "helpers",
            *(path.stem for path in [ROOT / "conftest.py", *(ROOT / "tests").glob("*.py")]),
        }
    )


def test_every_import_is_a_declared_dependency():
    distributions = packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    declared |= {canonicalize_name(requirement.name) for requirement in EXTRAS["keras"]}
    testing = declared | {canonicalize_name(r.name) for r in EXTRAS["test"] + EXTRAS["browser"]}
    code = [
        path.read_text(encoding="utf-8")
        for folder in ("helpers", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for path in all_chapters():
        cells = nbformat.read(path, as_version=4).cells
        code += [
            "\n".join(
                re.sub(r"^(\s*)[%!].*$", r"\1pass", c.source, flags=re.M)
                for c in cells
                if c.cell_type == "code"
            )
        ]
    tests = [
        path.read_text(encoding="utf-8")
        for path in [*(ROOT / "tests").glob("*.py"), ROOT / "conftest.py"]
    ]
    for sources, allowed in ((code, declared), (tests, testing)):
        for module in third_party(sources):
            owners = {canonicalize_name(name) for name in distributions.get(module, [module])}
            assert owners & allowed, (
                f"{module} is imported, but none of {owners} is in pyproject.toml"
            )


def test_constraints_pin_every_dependency_within_its_range():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    for requirement in [*REQUIREMENTS, *(r for extra in EXTRAS.values() for r in extra)]:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin, prereleases=True), (
            f"{requirement} but constraints.txt has {pin}"
        )


def test_the_lowest_versions_are_those_of_pyproject():
    pins = {pin.name: str(pin.specifier) for pin in map(Requirement, lowest())}
    tested = [*REQUIREMENTS, *EXTRAS["keras"], *EXTRAS["test"]]
    assert list(pins) == [requirement.name for requirement in tested]
    for requirement in tested:
        (lowest_one,) = [s for s in requirement.specifier if s.operator in (">=", "==")]
        assert {s.operator for s in requirement.specifier} - {lowest_one.operator} <= {"<"}
        assert pins[requirement.name] == f"=={lowest_one.version}"


def test_make_lowest_runs_the_same_tests_with_them():
    commands = recipe("lowest")
    assert "helpers.maintenance lowest > $(LOWEST)/constraints.txt\n" in commands
    assert "$(MAKE) test VENV=$(LOWEST) CONSTRAINTS=$(LOWEST)/constraints.txt\n" in commands


def test_the_conda_environment_installs_the_project_and_lists_nothing_again():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [item for item in dependencies if isinstance(item, str)]
    pip = next(item["pip"] for item in dependencies if isinstance(item, dict))
    assert [re.split("[=<>]", item)[0] for item in conda] == ["python", "pip"]
    index, *rest = pip
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert rest == ["--constraint constraints.txt", "--editable .[keras,lab,test]"]


def test_make_sets_up_from_the_same_two_files():
    assert re.search(r"^CONSTRAINTS := constraints\.txt$", MAKEFILE, re.MULTILINE)
    assert re.search(r"^INSTALL := .* --constraint \$\(CONSTRAINTS\)$", MAKEFILE, re.MULTILINE)
    assert "$(INSTALL) --editable '.[keras,test]'" in recipe(r"\$\(READY\)")
    assert "$(INSTALL) --editable '.[keras,lab,test]'" in recipe(r"\$\(LAB\)")
    for target in (
        "run",
        "test",
        "lowest",
        "refresh",
        "lint",
        "ranges",
        "accuracies",
        "bench",
        "bench-gpu",
    ):
        assert re.search(rf"^{target}: \$\(READY\)", MAKEFILE, re.MULTILINE), target


def test_ci_runs_every_test_file_and_every_chapter():
    """A test that no command runs is none. No folder is named but tests and notebooks, and nothing is left out."""
    kinds = ("elsewhere", "exercises", "browser")
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    called = [line.partition(" #")[0].split() for line in lines if line.startswith("make ")]
    targets = [word for words in called for word in words if word.startswith("test")]
    assert targets == ["test", "test-faults", *(f"test-{kind}" for kind in kinds)]
    commands, faults = map(recipe, ("test", "test-faults"))
    parallel = "-m pytest --numprocesses 2 --dist loadgroup"
    assert re.search(
        rf'{parallel} -m "not faults and not elsewhere and not exercises and not browser" tests$',
        commands,
        re.MULTILINE,
    )
    assert re.search(rf"{parallel} -m faults tests$", faults, re.MULTILINE)
    for kind in kinds:
        how = "-m pytest" if kind == "browser" else parallel
        assert re.search(rf"{how} -m {kind} tests$", recipe(f"test-{kind}"), re.MULTILINE)
    assert re.search(rf"{parallel} --nbval .*notebooks$", commands, re.MULTILINE)
    for word in ("--ignore", "--deselect", " -k ", " -m not", "--nbval-lax", "-x "):
        assert word not in commands + faults
    for path in ROOT.rglob("test_*.py"):
        if not {".venv", ".venv-lowest", "runs"} & set(path.relative_to(ROOT).parts):
            assert path.parent == ROOT / "tests", f"{path} is run by no command"


def test_the_workflow_runs_the_same_command_on_all_versions():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    crons = [entry["cron"] for entry in workflow[True]["schedule"]]  # YAML reads `on` as true
    commands = {
        "test": "make test",
        "site": "make site",
        "newest-releases": "make test",
        "lowest-versions": "make lowest",
    }
    assert set(jobs) == set(commands)
    for name, command in commands.items():
        assert command in [step.get("run") for step in jobs[name]["steps"]]
    weekly, nightly = crons
    assert weekly.endswith("* * 1") and nightly.endswith("* * *")
    assert f"github.event.schedule == '{weekly}'" in jobs["newest-releases"]["if"]
    assert f"github.event.schedule == '{nightly}'" in jobs["lowest-versions"]["if"]
    steps = [step.get("run") for step in jobs["test"]["steps"]]
    kinds = ("faults", "elsewhere", "exercises", "browser")
    assert {f"make test-{kind}" for kind in kinds} <= set(steps)
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "parameters").glob("*.yaml")), ids=lambda path: path.name
)
def test_parameter_files_are_accepted(path):
    values = yaml.safe_load(path.read_text())
    assert set(values) <= set(PARAMETERS)
    check_values(values)


def test_help_lists_every_target():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    assert targets == phony
    assert all(re.search(rf"^{target}:.*## \w", MAKEFILE, re.MULTILINE) for target in targets)


def test_readme_names_every_chapter_and_shows_pictures_that_are_there():
    for path in all_chapters():
        assert f"(notebooks/{path.name})" in README
    for picture in re.findall(r"!\[[^]]+\]\(([^)\s]+)\)", README):
        assert (ROOT / picture).exists(), picture


def test_readme_lists_every_parameter_with_its_default():
    for name, parameter in PARAMETERS.items():
        assert re.search(
            rf"^\| `{name}` \| `{re.escape(str(parameter.default))}` \|", README, re.MULTILINE
        ), name


def test_licence():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_tests_that_share_a_long_run_share_a_process(one_process):
    """pytest 9.2 with pytest-xdist 3.8 spreads them over all processes, and says nothing."""
    assert one_process


@pytest.fixture
def one_process(request, worker_id):
    """Whether pytest-xdist has put the group of this test into its name."""
    return worker_id == "master" or request.node.nodeid.endswith("@one_process")
