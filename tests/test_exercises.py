"""Exercises: derived from their solutions, which run here; a check tells right from wrong."""

import shutil

import nbformat
import numpy as np
import pytest
from lessons import printed

from maintenance.exercises import exercise_cells, write_exercises
from suite.chapters import all_chapters
from suite.exercises import check, read_solutions

each_chapter = pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


@each_chapter
def test_the_reader_gets_the_solutions_without_the_answers(path):
    """Before the way on."""
    solutions = read_solutions(path.stem)
    assert list(solutions) == list(range(1, len(solutions) + 1)) and 2 <= len(solutions) <= 3
    cells = [(cell.id, cell.source) for cell in read(path).cells]
    exercises = [(cell.id, cell.source) for cell in exercise_cells(path.stem, solutions)]
    assert [cell for cell in cells if cell[0].startswith("exercise-")] == exercises, (
        "run `make exercises`"
    )
    ids = [cell_id for cell_id, _ in cells[-len(exercises) - 2 :]]
    assert ids == ["recap", *dict(exercises), "next"]
    for number, (_, answer, _, _) in solutions.items():
        kept = dict(cells)[f"exercise-{number}-answer"]
        assert "= ...\n" in kept and kept.endswith("\n# Write your code here.")
        assert len(answer.partition("# solution\n")[2].strip()) > 10


def test_writing_the_exercises_again_changes_only_an_answer_whose_source_has_changed(tmp_path):
    original, path = all_chapters()[1], tmp_path / all_chapters()[1].name
    shutil.copy(original, path)
    write_exercises([path])
    assert path.read_bytes() == original.read_bytes()
    notebook = read(original)
    notebook.cells[-2].source += "\n# older"
    nbformat.write(notebook, path)
    write_exercises([path])
    cells = read(path).cells
    assert cells[-2].source == read(original).cells[-2].source
    assert cells[-2].outputs == [] and cells[-5].outputs != []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet.\n"),
        (4, "Right.\n"),
        (5, "Not yet: count again\n"),
        ("four", "Not yet: count again (TypeError: can't multiply"),
        (None, "Not yet: count again (TypeError: unsupported operand"),
        (np.array([4, 4]), "Not yet: count again (ValueError: The truth value"),
    ],
)
def test_a_check_says_one_line(answer, said, capsys):
    check(answer, lambda number: number * 1.0 == 4, hint="count again")
    printed = capsys.readouterr().out
    assert printed.startswith(said) and printed.count("\n") == 1


@each_chapter
def test_every_solution_is_right_and_the_mistake_beside_it_is_not(path, smoke_run):
    """In a chapter where somebody answers: first the mistake of the solutions, then right."""
    folder, run, _ = smoke_run
    assert run.returncode == 0, run.stderr
    cells = read(folder / path.name).cells
    answered = [cell for cell in cells if cell.id.endswith("-check") and "outputs" in cell]
    said = {cell.id: printed(cell) for cell in answered}
    for number in read_solutions(path.stem):
        assert said[f"exercise-{number}-mistake-check"].startswith("Not yet: "), said
        assert said[f"exercise-{number}-check"] == "Right.\n", said
