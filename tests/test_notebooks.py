"""Every chapter: valid, clean, strictly checked, and the source of the helpers."""

import ast
import base64
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from maintenance.exercises import is_exercise
from maintenance.helpers import write_helpers
from suite.chapters import all_chapters, lesson
from suite.settings import OF_EVERY_RUN, PARAMETERS, parameters_cell

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = all_chapters()
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip", "raises-exception"}
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def outputs_text(cell):
    return json.dumps(cell.get("outputs", []), ensure_ascii=False)


def python(cell):
    """The cell's code without IPython's magics."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)


def test_the_chapters_are_in_order():
    """06 and 12 are free for chapters to come."""
    assert [path.stem for path in CHAPTERS] == [
        "01_prepare_data",
        "02_dataloaders",
        "03_optimizer_and_schedule",
        "04_training_loop",
        "05_evaluation",
        "07_your_own_data",
        "08_trainer",
        "09_keras",
        "10_make_it_fast",
        "11_scale_out",
    ]


@each_chapter
def test_the_file_is_valid_and_holds_nothing_of_the_machine(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.nbformat_minor >= 5
    assert set(notebook.metadata) == {"kernelspec", "language_info", "suite"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "reason", "alt", "share"}, cell.id
        assert not re.search(
            r"(/(home|root|tmp|Users)/|site-packages|[A-Z]:\\\\)", outputs_text(cell)
        ), cell.id
        assert "widget" not in outputs_text(cell), cell.id


@each_chapter
def test_outputs_are_those_of_one_clean_run(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("execution_count", cell.execution_count) == cell.execution_count
            assert "\r" not in output.get("text", ""), cell.id
            assert output.get("name") != "stderr" or "%|" in output.text, (
                f"{cell.id} warns: {output.text}"
            )


@each_chapter
def test_size_and_ids(path):
    notebook = read(path)
    assert sum(not is_exercise(cell) for cell in notebook.cells[:-1]) <= 45
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell_id) for cell_id in ids), ids
    assert path.stat().st_size < 500_000


@each_chapter
def test_no_line_of_code_runs_out_of_the_page(path):
    for cell in code_cells(path):
        for line in cell.source.splitlines():
            assert len(line) <= 100, f"{path.name}, {cell.id}: {line}"


@each_chapter
def test_anatomy(path):
    cells = read(path).cells
    number = int(path.stem[:2])
    assert re.match(rf"# {number} · ", cells[0].source)
    assert "**You will learn**" in cells[0].source
    assert 3 <= len(re.findall(r"^- ", cells[0].source, re.MULTILINE)) <= 5
    (recap,) = [cell.source for cell in cells if cell.id == "recap"]
    assert "## Recap" in recap and "## Exercises" in recap
    assert f"](../solutions/{path.stem}.md)" in recap
    following = CHAPTERS[(CHAPTERS.index(path) + 1) % len(CHAPTERS)].name
    assert f"]({following})" in cells[-1].source
    assert [cell.id for cell in cells if cell.cell_type == "code"][:3] == [
        "setup",
        "parameters",
        "read-parameters",
    ]
    headings = re.findall(r"^(#+) ", prose(path), re.MULTILINE)
    assert headings.count("#") == 1 and set(headings) <= {"#", "##"}


@each_chapter
def test_every_figure_says_in_words_what_it_shows(path):
    """For readers who cannot see it; nbconvert takes the text from the cell's metadata."""
    for cell in code_cells(path):
        figures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        alt = cell.metadata.get("alt", "")
        assert bool(alt) == bool(figures), cell.id
        assert not figures or (40 < len(alt) < 300 and alt.endswith(".")), cell.id


def test_at_least_95_percent_of_the_cells_with_outputs_are_compared():
    with_outputs = [cell for path in CHAPTERS for cell in code_cells(path) if cell.outputs]
    left_out = [cell for cell in with_outputs if NOT_COMPARED & set(cell.metadata.get("tags", []))]
    assert len(with_outputs) >= 8 * len(CHAPTERS)
    assert 1 - len(left_out) / len(with_outputs) >= 0.95, [cell.id for cell in left_out]


def test_every_cell_that_is_not_compared_says_why():
    for path in CHAPTERS:
        for cell in code_cells(path):
            assert "NBVAL" not in cell.source
            if NOT_COMPARED & set(cell.metadata.get("tags", [])):
                assert len(cell.metadata.get("reason", "")) > 20, (
                    f"{path.name}: {cell.id} has no reason"
                )


def test_sanitized_text_is_only_what_depends_on_the_machine():
    """The patterns leave words, exact numbers and a bar's presence to be compared."""
    from nbval.plugin import get_sanitize_patterns

    patterns = dict(get_sanitize_patterns((ROOT / "tests" / "nbval_sanitize.cfg").read_text()))

    def clean(text):
        for pattern, replacement in patterns.items():
            text = re.sub(pattern, replacement, text)
        return text

    assert (
        clean("accuracy ≈ 0.789   (expected 0.750 to 0.830)")
        == "accuracyMEASURED   (expected 0.750 to 0.830)"
    )
    assert clean("Keras   99   ≈ 58.3   ≈ 998") == clean("Keras   99  ≈ 101.3  ≈ 1020")
    assert clean("rows 1000, loss 0.694") == "rows 1000, loss 0.694"
    states = [
        "  0%|  | 0/9 [00:00<?, ?it/s]",
        " 11%|█ | 1/9 [00:00<00:02,  3.10it/s]",
        "100%|##| 9/9 [00:04<00:00,  2.2it/s]",
    ]
    bar = "\r".join(states) + "\n"
    assert clean(bar) == clean("100%|██████████| 9/9 [00:09<00:00,  1.20it/s]\n") == "PROGRESS BAR"
    assert clean("") != clean(bar)


def test_helpers_are_what_the_chapters_share(tmp_path):
    """Written anew, byte for byte; so nothing stands there that no chapter shows."""
    write_helpers(tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in (ROOT / "helpers").glob("*.py")}, (
        "run `make helpers`"
    )


@each_chapter
def test_a_shared_cell_holds_imports_and_definitions_alone(path):
    """A later chapter that imports it must run no lesson. TensorFlow has to be started before it is imported."""
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    for cell in code_cells(path):
        if "share" in cell.metadata and cell.id != "start-tensorflow":
            assert all(isinstance(node, definitions) for node in ast.parse(cell.source).body), (
                cell.id
            )


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


# Read by what gets the whole settings: `Checkpoints`, `check_dataset`, `find_dataset`.
IN_THE_SUITE = {"save_steps", "text_column", "label_column"}


def test_lesson_cells_are_small():
    """Non-blank lines of all code cells but set-up, parameters and exercises."""
    sizes = sorted(
        sum(bool(line.strip()) for line in source.splitlines())
        for path in CHAPTERS
        for source in lesson(path).values()
    )
    assert statistics.median(sizes) <= 6
    assert sizes[int(0.9 * len(sizes))] <= 14
    assert sizes[-1] <= 24


def test_everything_that_the_three_roads_need_is_taught():
    code = "\n".join(cell.source for path in CHAPTERS for cell in code_cells(path))
    text = "\n".join(prose(path) for path in CHAPTERS)
    for name in (
        "load_dataset(",
        'dataset["train"][100]',
        ".map(tokenize, batched=True",
        ".shuffle(seed=settings.seed).select(range(",
        'remove_columns(["text"])',
        'rename_column("label", "labels")',
        'set_format("torch")',
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
        "clip_grad_norm_",
        "predictions = torch.argmax(outputs.logits, dim=-1)",
        'metric.add_batch(predictions=predictions, references=batch["labels"])',
        "metric.compute()",
        "TrainingArguments(",
        "compute_metrics=compute_metrics",
        'eval_strategy="epoch"',
        "trainer.train(",
        "trainer.predict(",
        "BertBackbone.from_preset(",
        "classifier.compile(",
        "classifier.fit(",
        "keras.models.load_model(",
        "accelerator.backward(loss)",
        "accelerator.gather_for_metrics(",
        "notebook_launcher(",
    ):
        assert name in code, name
    assert "https://github.com/huggingface/transformers/tree/main/examples" in text
    assert "https://huggingface.co/docs/transformers/notebooks" in text


def test_loop_and_trainer_measure_the_same_untrained_model():
    """As chapter 08 says: same head, same rows, so the same stored figures."""
    lines = []
    for path in CHAPTERS[3], CHAPTERS[6]:
        (cell,) = [cell for cell in code_cells(path) if cell.id == "evaluate-untrained"]
        lines.append(re.search(r"untrained: .*", cell.outputs[0].text)[0])
    assert lines[0] == lines[1]


def test_a_changed_output_fails_the_comparison(tmp_path):
    """The whole scheme in small: nbval over chapter 01 with one digit of one stored output changed."""
    notebook = read(CHAPTERS[0])
    cell = next(cell for cell in notebook.cells if cell.id == "clean-reviews")
    assert "8530" in cell.outputs[0].text
    cell.outputs[0].text = cell.outputs[0].text.replace("8530", "8531", 1)
    nbformat.write(notebook, tmp_path / "changed.ipynb")
    sanitize = ROOT / "tests" / "nbval_sanitize.cfg"
    command = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", sanitize, tmp_path]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--rootdir", tmp_path, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"1 failed, {len(code_cells(CHAPTERS[0])) - 1} passed" in run.stdout


def test_the_picture_of_the_readme_is_the_one_that_chapter_05_draws():
    cells = {cell.id: cell for cell in code_cells(CHAPTERS[4])}
    stored = cells["draw-baselines"].outputs[0].data["image/png"]
    assert base64.b64decode(stored) == (ROOT / "images" / "baselines.png").read_bytes()
