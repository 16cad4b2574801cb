"""What lies in a run folder is whole, and belongs to known settings."""

import json
from dataclasses import replace

import pytest

from helpers import runs
from helpers.parameters import Settings
from helpers.runs import (
    DATA_PARAMETERS,
    is_made_by,
    made_by,
    new_folder,
    record_metrics,
    run_folder,
    show_figures,
    write_json,
)


def test_a_relative_run_dir_starts_at_the_project(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_folder(Settings()) == root / "runs" / "default"
    assert run_folder(replace(Settings(), run_dir=str(tmp_path / "x"))) == tmp_path / "x"


def test_a_folder_knows_what_made_it(tmp_path):
    stamp = made_by(Settings(), ("seed",))
    with new_folder(tmp_path / "model", stamp) as folder:
        (folder / "weights").write_text("1")
        assert not (tmp_path / "model").exists()
    assert is_made_by(tmp_path / "model", stamp)
    assert not is_made_by(tmp_path / "model", made_by(replace(Settings(), seed=1), ("seed",)))
    assert is_made_by(tmp_path / "model", made_by(replace(Settings(), num_epochs=1), ("seed",)))


def test_a_folder_that_was_cut_short_is_not_taken(tmp_path):
    stamp = made_by(Settings(), ("seed",))
    with new_folder(tmp_path / "model", stamp) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "weights").write_text("12345")
    assert is_made_by(tmp_path / "model", stamp)
    (tmp_path / "model" / "README.md").write_text("added later")
    assert is_made_by(tmp_path / "model", stamp)
    (tmp_path / "model" / "inside" / "weights").write_text("123")
    assert not is_made_by(tmp_path / "model", stamp)
    (tmp_path / "model" / "inside" / "weights").unlink()
    assert not is_made_by(tmp_path / "model", stamp)


def test_a_changed_file_makes_other_results(tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\na,0\n")
    settings = replace(Settings(), dataset_name=str(file))
    stamp = made_by(settings, DATA_PARAMETERS)
    assert made_by(settings, DATA_PARAMETERS) == stamp
    file.write_text("text,label\na,0\nb,1\n")
    assert made_by(settings, DATA_PARAMETERS) != stamp


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_folder_without_a_readable_stamp_is_not_taken(tmp_path, content):
    if content is not None:
        (tmp_path / "made_by.json").write_text(content)
    assert not is_made_by(tmp_path, made_by(Settings(), ("seed",)))


def test_a_failure_leaves_the_old_folder_and_no_rest(tmp_path):
    for text in ("old", "new"):
        with new_folder(tmp_path / "model", {"text": text}) as folder:
            (folder / "weights").write_text(text)
    with pytest.raises(OSError), new_folder(tmp_path / "model", {}) as folder:
        (folder / "weights").write_text("half")
        raise OSError("disk full")
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]


def test_other_code_makes_other_results(monkeypatch):
    stamp = made_by(Settings(), ("seed",))
    monkeypatch.setattr(runs, "_code_digest", lambda: "another")
    assert made_by(Settings(), ("seed",)) != stamp


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
