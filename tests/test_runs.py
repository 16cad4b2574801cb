"""What lies in a run folder is whole, and belongs to known settings."""

import errno
import json
import shutil
from dataclasses import replace

import nbformat
import pytest

from suite import chapters
from suite.errors import UserError
from suite.runs import (
    is_made_by,
    made_by,
    new_folder,
    record_metrics,
    run_folder,
    show_figures,
    write_json,
)
from suite.settings import Settings


def test_a_relative_run_dir_starts_at_the_project(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_folder(Settings()) == root / "runs" / "default"
    assert run_folder(replace(Settings(), run_dir=str(tmp_path / "x"))) == tmp_path / "x"


def make(settings, product="model", **files):
    with new_folder(settings, product) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
    return run_folder(settings) / product


@pytest.fixture
def settings(tmp_path):
    return replace(Settings(), run_dir=str(tmp_path))


def test_a_folder_knows_what_made_it(settings):
    folder = make(settings, weights="1")
    assert is_made_by(folder, made_by(settings, "model"))
    for same in ({"num_eval": 5}, {"save_steps": 5}, {"run_dir": "elsewhere"}):
        assert is_made_by(folder, made_by(replace(settings, **same), "model"))
    for other in ({"seed": 1}, {"num_epochs": 1}, {"max_length": 64}):
        assert not is_made_by(folder, made_by(replace(settings, **other), "model"))
    assert not is_made_by(folder, made_by(settings, "trainer"))
    assert made_by(replace(settings, num_eval=5), "data") != made_by(settings, "data")


def test_a_folder_that_was_cut_short_is_not_taken(settings):
    stamp = made_by(settings, "model")
    with new_folder(settings, "model") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "weights").write_text("12345")
    folder = run_folder(settings) / "model"
    (folder / "README.md").write_text("added later")
    assert is_made_by(folder, stamp)
    (folder / "inside" / "weights").write_text("123")
    assert not is_made_by(folder, stamp)
    (folder / "inside" / "weights").unlink()
    assert not is_made_by(folder, stamp)


def test_a_changed_file_makes_other_results(settings, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\na,0\n")
    settings = replace(settings, dataset_name=str(file))
    stamp = made_by(settings, "data")
    assert made_by(settings, "data") == stamp
    file.write_text("text,label\na,0\nb,1\n")
    assert made_by(settings, "data") != stamp


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_folder_without_a_readable_stamp_is_not_taken(tmp_path, content):
    if content is not None:
        (tmp_path / "made_by.json").write_text(content)
    assert not is_made_by(tmp_path, made_by(Settings(), "model"))


def test_a_failure_leaves_the_old_folder_and_no_rest(settings, tmp_path):
    for text in ("old", "new"):
        folder = make(settings, weights=text)
    with pytest.raises(ZeroDivisionError), new_folder(settings, "model") as building:
        (building / "weights").write_text("half")
        raise ZeroDivisionError
    assert (folder / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]


def test_a_full_disk_is_one_line(settings):
    with (
        pytest.raises(UserError, match="is full .* make room and start again$"),
        new_folder(settings, "model"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of chapters and helpers, to change something in."""
    for folder in ("notebooks", "helpers"):
        shutil.copytree(chapters.ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def change(project, number, cell_id, addition):
    (path,) = project.glob(f"notebooks/{number}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    cell.source += addition
    nbformat.write(notebook, path)


def stale(project, act):
    """Names of the products that are no longer as they were made when something has changed."""
    names = ("data", "model", "trainer", "keras")
    before = {name: made_by(Settings(), name) for name in names}
    act()
    return [name for name in names if made_by(Settings(), name) != before[name]]


def test_words_links_and_answers_make_nothing_stale(project):
    assert stale(project, lambda: change(project, "04", "about-train", " More.")) == []
    assert stale(project, lambda: change(project, "04", "setup", "\n# another address")) == []
    assert stale(project, lambda: change(project, "04", "exercise-1-answer", "\nx = 1")) == []
    assert stale(project, lambda: change(project, "05", "compute-metrics", "\nx = 1")) == []


def test_code_makes_stale_what_it_decides(project):
    assert stale(project, lambda: change(project, "04", "train", "\nx = 1")) == ["model"]
    everything = ["data", "model", "trainer", "keras"]
    assert stale(project, lambda: change(project, "01", "clean-reviews", "\nx = 1")) == everything
    helper = project / "helpers" / "trainer_road.py"
    assert stale(project, lambda: helper.write_text("changed")) == []
    helper = project / "helpers" / "batches.py"
    assert stale(project, lambda: helper.write_text("changed")) == everything[1:]


def test_metrics_of_chapters_stand_side_by_side(tmp_path):
    settings = replace(Settings(), run_dir=str(tmp_path))
    record_metrics(settings, "01_first", rows=3)
    record_metrics(settings, "02_second", accuracy=0.5)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["01_first"]["rows"] == 3
    assert metrics["02_second"]["accuracy"] == 0.5
    assert metrics["01_first"]["peak_memory_mib"] > 10


def test_write_json_leaves_no_other_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    write_json(tmp_path / "a.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 2}


def test_a_figure_outside_its_interval_stops_a_default_run(capsys):
    with pytest.raises(AssertionError, match="accuracy is 0.5000, outside the measured interval"):
        show_figures(Settings(), accuracy=0.5)
    show_figures(replace(Settings(), num_epochs=1), accuracy=0.5)
    assert capsys.readouterr().out.splitlines()[-1] == "accuracy ≈ 0.500"
