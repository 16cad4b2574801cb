"""The files around the chapters say the same things as the chapters do."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maintenance.__main__ import lowest
from suite.chapters import ROOT, all_chapters
from suite.settings import PARAMETERS
from suite.start import check_values

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("helpers", "suite", "maintenance", "benchmarks")
CI = [ROOT / ".ci" / "run", ROOT / ".github" / "workflows" / "ci.yml"]
REQUIREMENTS = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
OPTIONAL = PYPROJECT["project"]["optional-dependencies"]
EXTRAS = {name: list(map(Requirement, lines)) for name, lines in OPTIONAL.items()}


def imported(path):
    """The top-level modules that a Python file or a chapter imports."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(source, as_version=4).cells
        code = [c.source for c in cells if c.cell_type == "code" and c.id != "setup"]
        source = "\n".join(code)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            yield from (name.split(".")[0] for name in names)


def test_every_import_is_a_declared_dependency():
    owners = packages_distributions()
    tests = [*(ROOT / "tests").glob("*.py"), ROOT / "conftest.py"]
    code = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    # Maintainers call it, with the packages of the tests.
    tools = [ROOT / "maintenance" / "translations.py"]
    code = [path for path in code if path not in tools]
    own = {*sys.stdlib_module_names, *PACKAGES, *(path.stem for path in tests)}
    declared = {canonicalize_name(r.name) for r in REQUIREMENTS + EXTRAS["keras"]}
    testing = {canonicalize_name(r.name) for r in EXTRAS["test"] + EXTRAS["browser"]}
    for paths, allowed in (
        ([*code, *all_chapters()], declared),
        (tests + tools, declared | testing),
    ):
        for module in {name for path in paths for name in imported(path)} - own:
            names = {canonicalize_name(name) for name in owners.get(module, [module])}
            assert names & allowed, f"{module} is imported, but none of {names} is declared"


def pins(lines):
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def test_constraints_pin_every_dependency_within_its_range():
    exact = pins((ROOT / "constraints.txt").read_text().splitlines())
    for requirement in [*REQUIREMENTS, *(r for extra in EXTRAS.values() for r in extra)]:
        pin = exact[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin, prereleases=True), f"{requirement}, but {pin}"


def test_the_lowest_versions_are_those_of_pyproject():
    wanted = {}
    for requirement in [*REQUIREMENTS, *EXTRAS["keras"], *EXTRAS["test"]]:
        (least,) = [s for s in requirement.specifier if s.operator in (">=", "==")]
        assert {s.operator for s in requirement.specifier} - {least.operator} <= {"<"}
        wanted[canonicalize_name(requirement.name)] = least.version
    assert pins(lowest()) == wanted


def test_the_conda_environment_installs_the_project_and_lists_nothing_again():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [re.split("[=<>]", item)[0] for item in conda] == ["python", "pip"]
    assert pip["pip"][0] == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert pip["pip"][1:] == ["--constraint constraints.txt", "--editable .[keras,lab,test]"]


def test_parameter_files_are_accepted():
    for path in (ROOT / "parameters").glob("*.yaml"):
        check_values(yaml.safe_load(path.read_text()))


def test_every_make_target_has_help_those_named_exist_and_ci_calls_every_kind_of_test():
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    assert targets == re.findall(r"^([a-z-]+):.*## \w", MAKEFILE, re.MULTILINE)
    assert sorted(targets) == sorted(re.search(r"(?m)^\.PHONY: (.*)$", MAKEFILE)[1].split())
    command = r"(?:`|^|run: |/usr/bin/time -v )make ([a-z-]+)"
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *CI]:
        named = re.findall(command, path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= set(targets), path.name
    markers = PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
    names = {marker.split(":")[0] for marker in markers} - {"slow"}
    kinds = {"test", *(f"test-{name}" for name in names)}
    for path in CI:
        assert kinds <= set(re.findall(r"make (\S+)$", path.read_text(), re.MULTILINE)), path.name


def test_the_readme_is_short_leads_to_every_chapter_and_has_the_figures_of_the_benchmarks():
    assert len(README.splitlines()) <= 130 and len(README.encode()) <= 9000
    assert all(f"(notebooks/{path.name})" in README for path in all_chapters())
    rows = README[README.index("## How fast") :].split("\n\n")[1].splitlines()[2:]
    files = [f"{name}-2-cores.md" for name in ("amd-epyc", "intel-r-xeon-r-processor-2-80ghz")]
    tables = [(ROOT / "benchmarks" / "results" / file).read_text() for file in files]
    for row in rows:
        with_bf16, without, *figures = re.findall(r"\| ([\d.]+(?: GiB)?)", row)
        assert len(figures) == 2
        for table, said in zip(tables, ([with_bf16, *figures], [without]), strict=True):
            lines = table.partition("**imdb")[0].splitlines()
            assert any(all(f"| {figure}" in line for figure in said) for line in lines), row


def test_docs_list_every_parameter_with_its_default_and_meaning():
    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    for name, parameter in PARAMETERS.items():
        meaning, low = parameter.metadata["meaning"], parameter.metadata["low"]
        range_ = "" if low is None else f"; {low} to {parameter.metadata['high']}"
        assert f"\n| `{name}` | `{parameter.default}` | {meaning}{range_} |\n" in page


@pytest.fixture
def one_process(request, worker_id):
    return worker_id == "master" or request.node.nodeid.endswith("@one_process")


def test_tests_that_share_a_long_run_share_a_process(one_process):
    """pytest 9.2 with pytest-xdist 3.8 spreads them over all processes, and says nothing."""
    assert one_process
