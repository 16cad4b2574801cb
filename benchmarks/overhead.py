"""`make overhead`: what the chapters of the last run cost beside their work, kernels and imports."""

import ast
import re
import subprocess
import sys

import nbformat

from suite.chapters import all_chapters
from suite.errors import UserError
from suite.runs import run_folder
from suite.settings import Settings

MAGIC = re.compile(r"\s*[%!]")


def overhead(folder):
    """Return what each chapter of the run in `folder` cost beside its work.

    {chapter: (seconds in all, seconds to start and stop the kernel, seconds to import what its
    cells import)}. The imports are measured now, in a fresh process for each chapter. Chapters that
    did not run to their end there are left out; raises UserError if none did.
    """
    costs = {}
    for path in all_chapters():
        if not (folder / path.name).is_file():
            continue
        notebook = nbformat.read(folder / path.name, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if any(cell.metadata.papermill.duration is None for cell in cells):
            continue
        code = (line for cell in cells for line in f"{cell.source}\n".splitlines(keepends=True))
        nodes = ast.walk(ast.parse("".join(line for line in code if not MAGIC.match(line))))
        imports = [ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
        timed = ["from time import perf_counter", "start = perf_counter()", *imports]
        command = [sys.executable, "-c", "\n".join([*timed, "print(perf_counter() - start)"])]
        seconds = notebook.metadata.papermill.duration
        kernel = seconds - sum(cell.metadata.papermill.duration for cell in cells)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        costs[path.stem] = seconds, kernel, float(done.stdout.splitlines()[-1])
    if not costs:
        raise UserError(f"{folder} holds no chapter that ran to its end: call `make run` first")
    return costs


def print_overhead(costs):
    """Print the table of `overhead`."""
    print(f"{'chapter':<26}{'seconds':>9}{'kernel':>9}{'imports':>9}{'together':>9}")
    totals = [sum(column) for column in zip(*costs.values(), strict=True)]
    for chapter, (seconds, kernel, imports) in {**costs, "all": totals}.items():
        print(f"{chapter:<26}{seconds:>9.1f}{kernel:>9.1f}{imports:>9.1f}{kernel + imports:>9.1f}")


def main():
    """Command line."""
    try:
        print_overhead(overhead(run_folder(Settings())))
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
