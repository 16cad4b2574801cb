"""What lies in a run folder is whole, and belongs to known settings."""

import errno
import json
import shutil
from dataclasses import replace

import nbformat
import pytest

from suite import chapters
from suite.errors import UserError
from suite.runs import is_made_by, made_by, new_folder, record_metrics, run_folder, show_figures
from suite.settings import Settings


def test_a_relative_run_dir_starts_at_the_project(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_folder(Settings()) == root / "runs" / "default"
    assert run_folder(replace(Settings(), run_dir=str(tmp_path / "x"))) == tmp_path / "x"


@pytest.fixture
def settings(tmp_path):
    return replace(Settings(), run_dir=str(tmp_path))


def test_a_folder_is_taken_for_what_made_it_and_only_whole(settings, tmp_path):
    with new_folder(settings, "model") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "weights").write_text("12345")
    folder, stamp = tmp_path / "model", made_by(settings, "model")
    (folder / "README.md").write_text("added later")
    assert is_made_by(folder, stamp)
    for same in ({"num_test": 5}, {"save_steps": 5}, {"run_dir": "elsewhere"}):
        assert is_made_by(folder, made_by(replace(settings, **same), "model"))
    for other in ({"seed": 1}, {"num_epochs": 1}, {"max_length": 64}):
        assert not is_made_by(folder, made_by(replace(settings, **other), "model"))
    assert not is_made_by(folder, made_by(settings, "trainer"))
    assert made_by(replace(settings, num_test=5), "data") != made_by(settings, "data")
    for name, contents in (("inside/weights", ["123"]), ("made_by.json", ["", "{", "[]"])):
        whole = (folder / name).read_text()
        for content in contents:
            (folder / name).write_text(content)
            assert not is_made_by(folder, stamp), (name, content)
        (folder / name).unlink()
        assert not is_made_by(folder, stamp), name
        (folder / name).write_text(whole)
        assert is_made_by(folder, stamp)


def test_a_changed_file_makes_other_results(settings, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\na,0\n")
    settings = replace(settings, dataset_name=str(file))
    stamp = made_by(settings, "data")
    assert made_by(settings, "data") == stamp
    file.write_text("text,label\na,0\nb,1\n")
    assert made_by(settings, "data") != stamp


def test_a_failure_leaves_the_old_folder_and_no_rest(settings, tmp_path):
    for text in ("old", "new"):
        with new_folder(settings, "model") as folder:
            (folder / "weights").write_text(text)
    with pytest.raises(ZeroDivisionError), new_folder(settings, "model") as folder:
        (folder / "weights").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]


def test_a_full_disk_is_one_line(settings):
    full = pytest.raises(UserError, match="is full .* make room and start again$")
    with full, new_folder(settings, "model"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("file", "cell_id", "stale"),
    [
        ("notebooks/04_training_loop.ipynb", "about-train", ""),
        ("notebooks/04_training_loop.ipynb", "setup", ""),
        ("notebooks/04_training_loop.ipynb", "exercise-1-answer", ""),
        ("notebooks/04_training_loop.ipynb", "train", "model"),
        ("notebooks/05_evaluation.ipynb", "compute-metrics", ""),
        ("notebooks/01_prepare_data.ipynb", "clean-reviews", "data model trainer keras"),
        ("helpers/trainer_road.py", None, ""),
        ("helpers/batches.py", None, "model trainer keras"),
    ],
)
def test_code_makes_stale_what_it_decides(tmp_path, monkeypatch, file, cell_id, stale):
    """Words, links and answers make nothing stale. In a copy of chapters and helpers."""
    for folder in ("notebooks", "helpers"):
        shutil.copytree(chapters.ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path / "notebooks")
    before = {name: made_by(Settings(), name) for name in ("data", "model", "trainer", "keras")}
    if cell_id is None:
        (tmp_path / file).write_text("changed")
    else:
        notebook = nbformat.read(tmp_path / file, as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
        cell.source += "\nx = 1"
        nbformat.write(notebook, tmp_path / file)
    assert [name for name in before if made_by(Settings(), name) != before[name]] == stale.split()


def test_metrics_of_chapters_stand_side_by_side(settings, tmp_path):
    record_metrics(settings, "01_first", rows=3)
    record_metrics(settings, "02_second", accuracy=0.5)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["01_first"]["rows"] == 3 and metrics["02_second"]["accuracy"] == 0.5
    assert metrics["01_first"]["peak_memory_mib"] > 10
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".metrics.json.lock", "metrics.json"]


def test_a_figure_outside_its_interval_stops_a_default_run(settings, capsys):
    with pytest.raises(AssertionError, match="accuracy is 0.5000, outside the measured interval"):
        show_figures(settings, accuracy=0.5)
    show_figures(replace(settings, num_epochs=1), accuracy=0.5)
    assert capsys.readouterr().out.splitlines()[-1] == "accuracy ≈ 0.500"
