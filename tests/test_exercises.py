"""Exercises: derived from their solutions, which run here; a check tells right from wrong."""

import shutil

import nbformat
import numpy as np
import papermill
import pytest
from nbformat.v4 import new_code_cell

from conftest import SMOKE
from maintenance.exercises import exercise_cells, is_exercise, read_solutions, write_exercises
from suite.chapters import all_chapters
from suite.exercises import check
from suite.runner import join_streams, kernel_config

each_chapter = pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


@each_chapter
def test_the_reader_gets_the_solutions_without_the_answers(path):
    solutions = read_solutions(path)
    assert list(solutions) == list(range(1, len(solutions) + 1)) and 2 <= len(solutions) <= 3
    cells = [(cell.id, cell.source) for cell in read(path).cells if is_exercise(cell)]
    assert cells == [(cell.id, cell.source) for cell in exercise_cells(solutions)], (
        "run `make exercises`"
    )
    for number, (_, answer, _, _) in solutions.items():
        kept = dict(cells)[f"exercise-{number}-answer"]
        assert "= ...\n" in kept and kept.endswith("\n# Write your code here.")
        assert len(answer.partition("# solution\n")[2].strip()) > 10


@each_chapter
def test_the_exercises_stand_before_the_way_on(path):
    ids = [cell.id for cell in read(path).cells]
    number = len(read_solutions(path))
    assert ids[-2 - 3 * number] == "recap" and ids[-1] == "next"
    assert all(name.startswith("exercise-") for name in ids[-1 - 3 * number : -1])


def test_writing_the_exercises_again_changes_nothing(tmp_path):
    path = tmp_path / all_chapters()[1].name
    shutil.copy(all_chapters()[1], path)
    write_exercises([path])
    assert path.read_bytes() == all_chapters()[1].read_bytes()


def test_an_answer_that_the_source_has_changed_loses_its_output_alone(tmp_path):
    path = tmp_path / all_chapters()[1].name
    notebook = read(all_chapters()[1])
    notebook.cells[-2].source += "\n# older"
    nbformat.write(notebook, path)
    write_exercises([path])
    cells = read(path).cells
    assert cells[-2].source == read(all_chapters()[1]).cells[-2].source
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exercises")


def mistake_then_solution(path):
    """A chapter where somebody answers: first the mistake of the solutions, then right."""
    notebook = read(path)
    solutions = read_solutions(path)
    cells = []
    for cell in notebook.cells:
        number = int(cell.id.split("-")[1]) if is_exercise(cell) else None
        if number and cell.id.endswith("-answer"):
            _, answer, its_check, mistake = solutions[number]
            cells.append(new_code_cell(mistake, id=f"mistake-{number}"))
            cells.append(new_code_cell(its_check, id=f"mistake-{number}-check"))
            cell.source = answer
        cells.append(cell)
    notebook.cells = cells
    return notebook


@pytest.mark.exercises
@each_chapter
def test_every_solution_is_right_and_the_mistake_beside_it_is_not(path, folder):
    nbformat.write(mistake_then_solution(path), folder / path.name)
    with kernel_config() as config:
        done = papermill.execute_notebook(
            folder / path.name,
            folder / f"{path.stem}-done.ipynb",
            parameters={**SMOKE, "run_dir": str(folder / "run")},
            kernel_name="python3",
            progress_bar=False,
            config=config,
        )
    # A line may come in two pieces: the kernel sends what is there whenever 0.2 seconds are over.
    code = [cell for cell in join_streams(done).cells if cell.cell_type == "code"]
    said = {cell.id: cell.outputs[-1].text for cell in code if cell.id.endswith("-check")}
    for number in read_solutions(path):
        assert said[f"mistake-{number}-check"].startswith("Not yet: "), said
        assert said[f"exercise-{number}-check"] == "Right.\n", said
