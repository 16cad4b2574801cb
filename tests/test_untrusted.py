"""What a data file or a parameter holds is text: never run, never markup, never a place to write to."""

import json
import re
import subprocess

import nbformat
import pandas as pd
import pytest
from datasets import load_from_disk
from nbconvert import HTMLExporter
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from conftest import ROOT, SMOKE
from suite.chapters import all_chapters, lesson
from suite.errors import UserError
from suite.runner import main, run_chapters
from suite.start import check_values

TRAPS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</pre></div><iframe src=javascript:alert(3)>",
    "{{ 7 * 7 }}{% raw %}{settings.run_dir!r}%(name)s",
    "$(touch trapped) `touch trapped` ; touch trapped",
    "=HYPERLINK(1)",
    "__import__('os').system('touch trapped')",
    "../../../trapped",
    "$\\frac{1}{$ \\unknown $$",
    "\x1b[31mred\x1b[0m \x07 \x08 \x7f",
    "مرحبا \u202eright to left\u202c שלום",
    "👩\u200d👩\u200d👧 emoji 🇩🇪 zero\u200bwidth",
    "long " * 200_000,  # a megabyte
]
CLASSES = ["<b>bold</b>\n<script>alert(4)</script>", "# $\\frac{1}{$ ../../trapped {{ 7*7 }} a|b"]


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    """Two chapters, and those that they need, on a file full of traps.

    Their folder, and what lay outside before and after.
    """
    folder = tmp_path_factory.mktemp("traps")
    texts = [f"{n} {TRAPS[n % len(TRAPS)]}" for n in range(120)]
    rows = pd.DataFrame({"text": texts, "label": [CLASSES[n % 3 == 0] for n in range(120)]})
    file = folder / "rows {{ 7*7 }};$(touch trapped).csv"
    rows.to_csv(file, index=False)
    run_dir = folder / "runs" / "{{ 7*7 }} $(touch trapped) <b>"
    before = outside(folder)
    chapters = [path for path in all_chapters() if path.stem[:2] in ("05", "07")]
    values = {"dataset_name": str(file), "run_dir": str(run_dir), "num_validation": 16}
    run_chapters(chapters, {**SMOKE, **values, "num_test": 16}, progress=False)
    return run_dir, before, outside(folder)


def outside(folder):
    """All files of the project and of the folder of the test, but for run folders and caches."""
    command = ["git", "status", "--short", "--untracked-files=all"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True)
    return found.stdout, sorted(path.name for path in folder.iterdir())


def test_nothing_is_written_outside_the_run_folder(trapped):
    run_dir, before, after = trapped
    assert after[0] == before[0]
    assert after[1] == sorted([*before[1], "runs"])
    assert [path.name for path in run_dir.parent.iterdir()] == [run_dir.name]
    assert not list(ROOT.rglob("trapped")) and not list(run_dir.rglob("trapped"))


def test_markup_is_shown_as_text(trapped):
    """In every output of the notebooks, and in the page that nbconvert makes of them."""
    run_dir, _, _ = trapped
    pages = ""
    for path in run_dir.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                shown = {
                    kind: data[kind] for kind in data if kind not in ("text/plain", "image/png")
                }
                assert not re.search(r"<(script|img|iframe|b>)", str(shown)), cell.id
                assert "application/javascript" not in data, cell.id
        page, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
        pages += page
    assert not re.search("<script>alert|<img src=x|<iframe|<b>bold", pages)
    assert "&lt;script&gt;alert(4)" in pages


def test_names_and_texts_pass_through_as_they_are(trapped):
    run_dir, _, _ = trapped
    card = (run_dir / "model" / "README.md").read_text()
    assert "<script>" not in card
    assert r"| &lt;b&gt;bold&lt;/b&gt; &lt;script&gt;alert\(4\)&lt;/script&gt; |" in card
    assert r"| \# $" in card and r" a\|b |" in card
    assert r"7\*7" in card  # no template has made 49 of it
    config = json.loads((run_dir / "model" / "config.json").read_text())
    assert set(config["id2label"].values()) == set(CLASSES)
    splits = load_from_disk(run_dir / "data").values()
    texts = {text.split(" ", 1)[1].strip() for rows in splits for text in rows["text"]}
    assert {trap.strip() for trap in TRAPS} <= texts


@pytest.mark.parametrize("trap", [*TRAPS, '"; open("trapped", "w").close(); x = "'])
def test_a_parameter_is_no_code(trap, tmp_path, monkeypatch):
    """papermill writes parameters into a cell; a value must not end its string."""
    monkeypatch.chdir(tmp_path)
    chapter = load_notebook_node(str(all_chapters()[1]))
    cells = parameterize_notebook(chapter, {"text_column": trap}).cells
    (cell,) = (cell for cell in cells if "injected-parameters" in cell.metadata.tags)
    namespace = {}
    exec(cell.source, namespace)
    assert namespace["text_column"] == trap
    for name in ("text_column", "label_column", "model_name", "dataset_name", "run_dir"):
        own = {**SMOKE, "run_dir": str(tmp_path / "run"), name: trap}
        try:
            check_values(own)
        except UserError as error:
            assert "\n" not in str(error)
    assert not list(tmp_path.iterdir())


def test_a_parameter_is_no_code_for_the_runner(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trap = ["-p", "text_column", TRAPS[6], "-p", "run_dir", str(tmp_path / "run")]
    assert main(["run", "02", "-f", str(ROOT / "parameters" / "smoke.yaml"), *trap]) == 1
    assert "has no column" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_pickle_is_loaded_and_no_foreign_code_run():
    """Neither the switch for foreign code nor a reader of pickles stands in helpers or chapters."""
    files = [*ROOT.glob("helpers/*.py"), *ROOT.glob("suite/**/*.py")]
    sources = [path.read_text(encoding="utf-8") for path in files]
    sources += [source for path in all_chapters() for source in lesson(path).values()]
    for word in ("trust_remote_code", "pickle.load", "torch.load(", "joblib", "dill"):
        assert not any(word in source for source in sources), word
