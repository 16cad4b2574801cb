"""Every chapter: valid, clean, strictly checked, source of the helpers; its exercises work."""

import ast
import base64
import json
import re
import shutil
import statistics

import nbformat
import numpy as np
import pytest
from lessons import cells_of, chapter, printed, prose, run_python
from nbval.plugin import get_sanitize_patterns

from maintenance.exercises import exercise_cells, is_exercise, write_exercises
from maintenance.helpers import write_helpers
from suite.chapters import ROOT, all_chapters, languages, lesson
from suite.exercises import check, read_solutions
from suite.settings import OF_EVERY_RUN, PARAMETERS, parameters_cell

CHAPTERS = all_chapters()
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip", "raises-exception"}
OF_THE_MACHINE = re.compile(r"/(home|root|tmp|Users)/|site-packages|[A-Z]:\\\\|widget")
# Read by what gets the whole settings: `Checkpoints`, `check_dataset`, `find_rows`.
IN_THE_SUITE = {"dataset_name", "save_steps", "text_column", "label_column"}
DEFINITIONS = {ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef}
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


@each_chapter
def test_the_file_is_valid_and_small_and_holds_nothing_of_the_machine(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.nbformat_minor >= 5
    assert set(notebook.metadata) == {"kernelspec", "language_info", "suite"}
    assert sum(not is_exercise(cell) for cell in notebook.cells[:-1]) <= 45
    assert path.stat().st_size < 500_000
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell.id)
        assert set(cell.metadata) <= {"tags", "reason", "alt", "share"}, cell.id
        outputs = json.dumps(cell.get("outputs", []), ensure_ascii=False)
        assert not OF_THE_MACHINE.search(outputs), cell.id
        if cell.cell_type == "code":
            assert all(len(line) <= 100 for line in cell.source.splitlines()), cell.id
        # A later chapter that imports it must run no lesson, but TensorFlow has to be started first.
        if "share" in cell.metadata and cell.id != "start-tensorflow":
            assert {type(node) for node in ast.parse(cell.source).body} <= DEFINITIONS, cell.id


@each_chapter
def test_outputs_are_those_of_one_clean_run_and_figures_say_in_words_what_they_show(path):
    """For readers who cannot see it; nbconvert takes the text from the cell's metadata."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("execution_count", cell.execution_count) == cell.execution_count
            assert "\r" not in output.get("text", ""), cell.id
            assert output.get("name") != "stderr" or "%|" in output.text, f"{cell.id} warns"
        alt = cell.metadata.get("alt", "")
        assert bool(alt) == any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert not alt or (40 < len(alt) < 300 and alt.endswith(".")), cell.id


@each_chapter
def test_anatomy(path):
    """Numbers without a gap, and each chapter leads to the next."""
    assert [int(path.stem[:2]) for path in CHAPTERS] == [*range(1, 16)]
    cells = read(path).cells
    assert re.match(rf"# {int(path.stem[:2])} · ", cells[0].source)
    assert "**You will learn**" in cells[0].source
    assert 3 <= len(re.findall(r"^- ", cells[0].source, re.MULTILINE)) <= 5
    (recap,) = [cell.source for cell in cells if cell.id == "recap"]
    assert "## Recap" in recap and "## Exercises" in recap
    assert f"](../solutions/{path.stem}.md)" in recap
    following = CHAPTERS[(CHAPTERS.index(path) + 1) % len(CHAPTERS)].name
    assert f"]({following})" in cells[-1].source
    start = [cell.id for cell in code_cells(path)][:3]
    assert start == ["setup", "parameters", "read-parameters"]
    headings = re.findall(r"^(#+) ", prose(path), re.MULTILINE)
    assert headings.count("#") == 1 and set(headings) <= {"#", "##"}


def test_at_least_95_percent_of_the_cells_with_outputs_are_compared():
    """Every other cell says why it is not."""
    cells = [cell for path in CHAPTERS for cell in code_cells(path)]
    left_out = [cell for cell in cells if NOT_COMPARED & set(cell.metadata.get("tags", []))]
    with_outputs = [cell for cell in cells if cell.outputs]
    assert len(with_outputs) >= 8 * len(CHAPTERS)
    assert sum(cell in left_out for cell in with_outputs) <= 0.05 * len(with_outputs)
    assert not [cell.id for cell in left_out if len(cell.metadata.get("reason", "")) <= 20]
    assert not any("NBVAL" in cell.source for cell in cells)


def test_sanitized_text_is_only_what_depends_on_the_machine():
    """The patterns leave words, exact numbers and a bar's presence to be compared."""

    def clean(text):
        for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text()):
            text = re.sub(pattern, replacement, text)
        return text

    expected = "(expected 0.750 to 0.830)"
    assert clean(f"accuracy ≈ 0.789   {expected}") == f"accuracyMEASURED   {expected}"
    assert clean("Keras   99   ≈ 58.3   ≈ 998") == clean("Keras   99  ≈ 101.3  ≈ 1020")
    assert clean("apart by ≈ 0e+00") == clean("apart by ≈ 3.1e-08")
    assert clean("rows 1000, loss 0.694") == "rows 1000, loss 0.694"
    bar = "  0%|  | 0/9 [00:00<?, ?it/s]\r 11%|█ | 1/9 [00:00<00:02,  3.10it/s]\r"
    bar += "100%|##| 9/9 [00:04<00:00,  2.2it/s]\n"
    assert clean(bar) == clean("100%|██████████| 9/9 [00:09<00:00,  1.20it/s]\n") == "PROGRESS BAR"
    shorter = "100%|##| 9/9 [00:04<00:00,  2.2it/s] \n"  # spaces cover the rest of a longer one
    assert clean(bar.strip() + "\r" + shorter) == "PROGRESS BAR"
    assert clean("") == ""


def test_helpers_are_what_the_chapters_share(tmp_path):
    """Written anew, byte for byte; so nothing stands there that no chapter shows."""
    write_helpers(tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in (ROOT / "helpers").glob("*.py")}


@each_chapter
def test_the_parameters_cell_lists_those_that_the_cells_use(path):
    cells = code_cells(path)
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    names = [statement.target.id for statement in ast.parse(cell.source).body]
    assert cell.source == parameters_cell(names)
    lesson = "\n".join(cell.source for cell in cells)
    used = set(re.findall(r"\b(?:settings|own)\.(\w+)", lesson)) & set(PARAMETERS)
    assert used <= set(names)
    # Some functions of the suite and of the chapter's own take all settings at once.
    for name in set(names) - used - set(OF_EVERY_RUN):
        assert re.search(rf"\b{name}\b", lesson.replace(cell.source, "")) or name in IN_THE_SUITE


def test_lesson_cells_are_small():
    """Non-blank lines of all code cells but set-up, parameters and exercises."""
    sources = [source for path in CHAPTERS for source in lesson(path).values()]
    sizes = sorted(len(re.findall(r"^.*\S", source, re.MULTILINE)) for source in sources)
    assert statistics.median(sizes) <= 6
    assert sizes[int(0.9 * len(sizes))] <= 14
    assert sizes[-1] <= 24


def test_everything_that_the_three_roads_need_is_taught():
    code = "\n".join(cell.source for path in CHAPTERS for cell in code_cells(path))
    for name in (
        "load_dataset(",
        'dataset["train"][100]',
        ".map(tokenize, batched=True",
        ".shuffle(seed=settings.seed).select(range(",
        "DataLoader(",
        "shuffle=True, batch_size=8",
        "AutoModelForSequenceClassification.from_pretrained(",
        "num_labels=",
        "AdamW(",
        'name="linear"',
        "num_training_steps = settings.num_epochs * len(train_dataloader)",
        "from tqdm.auto import tqdm",
        "progress_bar = tqdm(range(num_training_steps))",
        "batch = {k: v.to(device) for k, v in batch.items()}",
        "predictions = torch.argmax(outputs.logits, dim=-1)",
        'metric.add_batch(predictions=predictions, references=batch["labels"])',
        "metric.compute()",
        "trainer.train(",
        "trainer.predict(",
        "classifier.fit(",
        "keras.models.load_model(",
        "notebook_launcher(",
    ):
        assert name in code, name
    text = "\n".join(prose(path) for path in CHAPTERS)
    assert "https://github.com/huggingface/transformers/tree/main/examples" in text
    assert "https://huggingface.co/docs/transformers/notebooks" in text


def glossary():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (\S.*?) \| .* \| \[chapter (\d+)\]\(.*\) \|$", text, re.MULTILINE)


@pytest.mark.parametrize(("term", "number"), glossary())
def test_a_term_is_explained_where_it_is_first_used(term, number):
    """In a cell that links the glossary at that word. A title tells what is to come, as a link to the next does."""
    word = re.compile(rf"\b{re.sub('(?<!s)s$', '', term)}(s|es)?\b", re.IGNORECASE)
    # code, headings, links
    apart = r"(?ms)```.*?```|`[^`]*`|^#.*?$|\]\((?!\.\./docs/glossary)[^)]*\)"
    for path in CHAPTERS:
        for cell in read(path).cells:
            plain = re.sub(apart, "", cell.source)
            counts = cell.cell_type == "markdown" and cell.id not in ("title", "next")
            if counts and (first := word.search(plain)):
                assert int(path.name[:2]) == int(number), f"{path.name}, cell {cell.id!r}"
                linked = plain[first.start() - 2 :].lower()
                assert linked.startswith(f"*[{term.lower()}](../docs/glossary.md)*"), cell.id
                return
    raise AssertionError(f"no chapter uses {term!r}")


def test_loop_and_trainer_measure_the_same_untrained_model():
    """As chapter 08 says: same head, same rows, so the same stored figures."""
    cells = [cells_of(chapter(number))["evaluate-untrained"] for number in ("04", "08")]
    first, second = (re.search(r"untrained: .*", printed(cell))[0] for cell in cells)
    assert first == second


@pytest.mark.slow
def test_a_changed_output_fails_the_comparison(tmp_path):
    """The whole scheme in small: nbval over chapter 01 with one digit of one stored output changed."""
    notebook = read(CHAPTERS[0])
    (cell,) = (cell for cell in notebook.cells if cell.id == "clean-reviews")
    assert "8530" in cell.outputs[0].text
    cell.outputs[0].text = cell.outputs[0].text.replace("8530", "8531", 1)
    nbformat.write(notebook, tmp_path / "changed.ipynb")
    options = ["-p", "conftest", "--rootdir", tmp_path, "--nbval", "--nbval-current-env"]
    options += ["--nbval-sanitize-with", SANITIZE, tmp_path]
    run = run_python("-m", "pytest", *options, code=1)
    assert f"1 failed, {len(code_cells(CHAPTERS[0])) - 1} passed" in run.stdout


@pytest.mark.parametrize("language", ["en", *languages()])
def test_the_picture_of_the_readme_is_the_one_that_chapter_05_draws(language):
    (output,) = cells_of(all_chapters(language)[4])["draw-baselines"].outputs
    drawn = base64.b64decode(output.data["image/png"])
    name = "baselines.png" if language == "en" else f"baselines.{language}.png"
    assert drawn == (ROOT / "images" / name).read_bytes()


@each_chapter
def test_the_reader_gets_the_solutions_without_the_answers(path):
    solutions = read_solutions(path.stem)
    assert list(solutions) == list(range(1, len(solutions) + 1)) and 2 <= len(solutions) <= 3
    cells = [(cell.id, cell.source) for cell in read(path).cells]
    exercises = [(cell.id, cell.source) for cell in exercise_cells(path.stem, solutions)]
    found = [cell for cell in cells if cell[0].startswith("exercise-")]
    assert found == exercises, "run `make exercises`"
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
    cells = cells_of(smoke_run[0] / path.name)
    for number in read_solutions(path.stem):
        assert printed(cells[f"exercise-{number}-mistake-check"]).startswith("Not yet: "), number
        assert printed(cells[f"exercise-{number}-check"]) == "Right.\n", number
