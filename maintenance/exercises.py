"""Exercises: derive the reader's cells from the solutions.

solutions/NN_….md is the source: for each exercise the question, the answer, the check and a mistake
that the check has to find. The chapter gets question and check, and the answer without what follows
`# solution`; `make exercises` writes the cells.
"""

import re

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from suite.chapters import ROOT

SOLUTIONS = ROOT / "solutions"
QUESTION = re.compile(r"^## Exercise (\d+)\n\n(.*)", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"^( *)# solution\n.*", re.MULTILINE | re.DOTALL)


def read_solutions(chapter):
    """Return {number: (question, answer, check, mistake)} of a chapter, as the solutions write them.

    chapter: path of the notebook
    """
    parts = FENCED.split((SOLUTIONS / f"{chapter.stem}.md").read_text(encoding="utf-8"))
    solutions = {}
    for question, answer, its_check, mistake in zip(
        parts[:-1:6], parts[1::6], parts[3::6], parts[5::6], strict=True
    ):
        number, text = QUESTION.search(question).groups()
        solutions[int(number)] = (text.strip(), answer, its_check, mistake)
    return solutions


def exercise_cells(solutions):
    """Return the reader's cells: for each exercise the question, a cell to write in, and the check."""
    cells = []
    for number, (question, answer, its_check, _) in solutions.items():
        answer = ANSWER.sub(r"\1# Write your code here.", answer)
        cells.append(
            new_markdown_cell(f"**Exercise {number}.** {question}", id=f"exercise-{number}")
        )
        cells.append(new_code_cell(answer, id=f"exercise-{number}-answer"))
        cells.append(new_code_cell(its_check, id=f"exercise-{number}-check"))
    return cells


def is_exercise(cell):
    """Return whether a cell of a chapter belongs to an exercise."""
    return cell.id.startswith("exercise-")


def write_exercises(chapters):
    """Write the exercises into the chapters, before the last cell; outputs of same cells stay."""
    for path in chapters:
        notebook = nbformat.read(path, as_version=4)
        old = {cell.id: cell for cell in notebook.cells if is_exercise(cell)}
        cells = exercise_cells(read_solutions(path))
        for n, cell in enumerate(cells):
            if cell.id in old and old[cell.id].source == cell.source:
                cells[n] = old[cell.id]
        rest = [cell for cell in notebook.cells if not is_exercise(cell)]
        notebook.cells = [*rest[:-1], *cells, rest[-1]]
        nbformat.write(notebook, path)
