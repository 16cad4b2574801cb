"""Exercises: derive the reader's cells from the solutions.

solutions/NN_….md is the source: for each exercise the question, the answer, the check and a mistake
that the check has to find. The chapter gets the question, the answer without what follows `# solution`,
and a call of the check; `make exercises` writes the cells.
"""

import re

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from suite.exercises import read_solutions

ANSWER = re.compile(r"^( *)# solution\n.*", re.MULTILINE | re.DOTALL)


def exercise_cells(chapter, solutions):
    """Return the reader's cells: for each exercise the question, a cell to write in, and the check."""
    cells = []
    for number, (question, answer, _, _) in solutions.items():
        answer = ANSWER.sub(r"\1# Write your code here.", answer)
        call = f'check_exercise("{chapter}", {number}, globals())'
        check = f"from suite.exercises import check_exercise\n\n{call}"
        cells += [
            new_markdown_cell(f"**Exercise {number}.** {question}", id=f"exercise-{number}"),
            new_code_cell(answer, id=f"exercise-{number}-answer"),
            new_code_cell(check, id=f"exercise-{number}-check"),
        ]
    return cells


def is_exercise(cell):
    """Return whether a cell of a chapter belongs to an exercise."""
    return cell.id.startswith("exercise-")


def write_exercises(chapters):
    """Write the exercises into the chapters, before the last cell; outputs of same cells stay."""
    for path in chapters:
        notebook = nbformat.read(path, as_version=4)
        old = {cell.id: cell for cell in notebook.cells if is_exercise(cell)}
        cells = exercise_cells(path.stem, read_solutions(path.stem))
        for n, cell in enumerate(cells):
            if cell.id in old and old[cell.id].source == cell.source:
                cells[n] = old[cell.id]
        rest = [cell for cell in notebook.cells if not is_exercise(cell)]
        notebook.cells = [*rest[:-1], *cells, rest[-1]]
        nbformat.write(notebook, path)
