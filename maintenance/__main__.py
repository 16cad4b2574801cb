"""For maintainers: `make help` says what each command is for."""

import re
import sys
import tomllib

from maintenance.exercises import write_exercises
from maintenance.helpers import write_helpers
from maintenance.outputs import refresh
from maintenance.ranges import measure_ranges
from maintenance.translations import write_translations
from suite.chapters import ROOT, all_chapters
from suite.errors import UserError


def lowest():
    """Return a pip constraint for each dependency: the lowest version that pyproject.toml allows.

    JupyterLab and the browser's driver are left out: `make test` needs neither.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["keras"] + extras["test"]
    return [re.sub("[>=]=([^,]+).*", r"==\1", line) for line in lines]


COMMANDS = {
    "refresh": refresh,
    "ranges": measure_ranges,
    "helpers": write_helpers,
    "translations": lambda: write_translations(*sys.argv[2:]),
    "exercises": lambda: write_exercises(all_chapters()),
    "lowest": lambda: print("\n".join(lowest())),
}

if __name__ == "__main__":
    try:
        COMMANDS[sys.argv[1]]()
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
