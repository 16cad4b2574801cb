"""For maintainers: `make help` says what each command is for."""

import argparse
import json
import re
import sys
import tomllib

from maintenance.exercises import write_exercises
from maintenance.helpers import write_helpers
from maintenance.outputs import refresh
from maintenance.overhead import overhead, print_overhead
from maintenance.ranges import MORE_SEEDS, SEEDS, measure_accuracies, measure_ranges
from suite.chapters import ROOT, all_chapters
from suite.errors import UserError
from suite.runs import run_folder
from suite.settings import Settings


def lowest():
    """Return a pip constraint for each dependency: the lowest version that pyproject.toml allows.

    JupyterLab and the browser's driver are left out: `make test` needs neither.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["keras"] + extras["test"]
    return [re.sub("[>=]=([^,]+).*", r"==\1", line) for line in lines]


COMMANDS = {
    "refresh": lambda arguments: refresh(),
    "ranges": lambda arguments: measure_ranges(arguments.seeds or SEEDS),
    "accuracies": lambda arguments: measure_accuracies(arguments.seeds or MORE_SEEDS),
    "overhead": lambda arguments: print_overhead(overhead(run_folder(Settings()))),
    "helpers": lambda arguments: write_helpers(),
    "exercises": lambda arguments: write_exercises(all_chapters()),
    "lowest": lambda arguments: print("\n".join(lowest())),
}


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m maintenance", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--seeds", type=json.loads, help="JSON list of seeds for ranges and accuracies"
    )
    arguments = parser.parse_args(arguments)
    try:
        COMMANDS[arguments.command](arguments)
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
