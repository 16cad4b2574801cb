"""The runner: what it prints and keeps when all goes well, and when something breaks."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import psutil
import pytest
from lessons import cells_of, chapter, make_here, run_here, run_python
from nbformat.v4 import new_code_cell, new_notebook

from benchmarks import overhead
from conftest import SMOKE
from suite import runner
from suite.chapters import ROOT, all_chapters, facts, plan
from suite.errors import UserError
from suite.runner import main, run_chapters
from suite.runs import run_folder
from suite.settings import parameters_cell
from suite.start import check_values

pytestmark = pytest.mark.slow


def write_chapter(folder, name, *sources, **facts):
    cells = [new_code_cell(parameters_cell(), id="parameters", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernelspec, "suite": facts})
    nbformat.write(notebook, folder / f"{name}.ipynb")


def printed(path):
    """What the last cell of a notebook printed."""
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].text


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """A folder that stands in for notebooks/; write chapters into it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr("suite.chapters.NOTEBOOKS", folder)
    return folder


FIND = "from suite.resolve import find_model\n\nfind_model('./none')"
KILL = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (
            ["x = 0", "y = 2\n\n1 / x"],
            "[4] 'cell-1', line 3: 1 / x\n  ZeroDivisionError: division by zero\n",
        ),
        (
            ["def f(n):\n    [][n]", "a = 1\nf(a)"],
            "[4] 'cell-1', line 2: f(a)\n  IndexError: list index out of range\n",
        ),
        ([FIND], "[3] 'cell-0'\n  SourceError: model_name: nothing lies at './none'"),
        ([KILL, "print('never')"], "'cell-0': the kernel was killed"),
    ],
)
def test_a_failing_chapter_is_named_with_line_and_error(chapters, tmp_path, capsys, sources, said):
    """What ran before it stays, but for temporary files."""
    write_chapter(chapters, "01_good", "import tempfile\nprint(tempfile.mkdtemp(), end='')")
    write_chapter(chapters, "02_bad", *sources)
    write_chapter(chapters, "03_after", "print('never')")
    run = tmp_path / "run"
    assert main(["run", "-p", "run_dir", str(run)]) == 1
    bars, _, message = capsys.readouterr().err.partition("\nChapterError: 02_bad.ipynb, cell ")
    assert "Error" not in bars and message.startswith(said)
    assert message.endswith(f"p to there: {run / '02_bad.ipynb'}\n")
    assert message.count("\n") == (1 if KILL in sources else 3)
    files = (path.name for path in run.iterdir() if not path.name.endswith(".lock"))
    assert sorted(files) == ["01_good.ipynb", "02_bad.ipynb", "metrics.json"]
    assert list(json.loads((run / "metrics.json").read_text())) == ["01_good"]
    temporary = printed(run / "01_good.ipynb")
    assert "chapters-" in temporary and not Path(temporary).parent.exists()


def test_figures_of_other_chapters_stay_and_stale_ones_go(chapters, tmp_path):
    record = "from suite.runs import record_metrics\nfrom suite.start import read_parameters\n"
    record += "record_metrics(read_parameters(globals()), {name!r}, seen=num_train)"
    for name in ("01_one", "02_two"):
        write_chapter(chapters, name, record.format(name=name))
    run = {"run_dir": str(tmp_path / "run")}
    run_chapters(all_chapters(), {**run, "num_train": 10}, progress=False)
    assert list(run_chapters(all_chapters()[1:], {**run, "num_train": 20})) == ["02_two"]
    write_chapter(chapters, "02_two", "1 / 0")
    with pytest.raises(UserError):
        run_chapters(all_chapters()[1:], run, progress=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics) == ["01_one"] and metrics["01_one"]["seen"] == 10
    assert metrics["01_one"]["peak_memory_mib"] > 10
    names = {path.name for path in (tmp_path / "run").iterdir() if ".ipynb" not in path.name}
    assert names == {".metrics.json.lock", "metrics.json"}


def test_a_chapter_that_runs_another_first_says_so(chapters, tmp_path, capsys):
    write_chapter(chapters, "01_one", "", makes="one")
    write_chapter(chapters, "02_two", "", needs=["one"])
    run_chapters(all_chapters(), {"run_dir": str(tmp_path / "run")})
    assert capsys.readouterr().out == "02_two needs what 01_one makes: that comes first.\n"


def test_the_table_shows_small_figures_too():
    figures = {"rate": 1e-4, "gain": -0.25, "loss": 0.6931, "rows": 32, "none": 0.0, "seconds": 2.0}
    shown = runner.table({"06_choose": figures}).splitlines()[1]
    assert "rate 0.0001, gain -0.250, loss 0.693, rows 32, none 0.000" in shown


WAIT = """
import os, pathlib, time
end = time.monotonic() + 60
while not pathlib.Path(run_dir, {!r}).exists():
    assert time.monotonic() < end
    time.sleep(0.1)
"""
MEET = "import pathlib\npathlib.Path(run_dir, {!r}).touch()\n" + WAIT


def test_rows_run_side_by_side_on_shared_cores_and_the_rest_alone(chapters, tmp_path, monkeypatch):
    """04 and 06 wait for each other; 08 measures speed and has to have all cores."""
    for name in runner.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda process: range(6), raising=False)
    threads = f"print(*map(os.environ.get, {runner.THREADS}))"
    for name, own, other in (("06_one", "one", "two"), ("04_two", "two", "one")):
        source = MEET.format(own, other) + threads
        write_chapter(chapters, name, source, makes=own, minutes=2)
    after = "import os\nassert os.path.exists(run_dir + '/{}')\n"
    write_chapter(chapters, "02_after_04", after.format("two"), needs=["two"])
    write_chapter(chapters, "08_alone", after.format("one") + threads, measures_speed=True)
    run = tmp_path / "run"
    done = run_chapters(all_chapters(), {"run_dir": str(run)}, progress=False, side_by_side=True)
    names = ["02_after_04", "04_two", "06_one", "08_alone"]
    assert list(done) == list(json.loads((run / "metrics.json").read_text())) == names
    texts = [printed(run / f"{name}.ipynb") for name in names[1:]]
    assert texts == ["3 3 3 3\n", "3 3 3 3\n", "None None None None\n"]


def test_the_plan_of_the_chapters_keeps_to_what_they_need():
    rows, alone = plan(all_chapters(), 2)
    assert sorted([*sum(rows, []), *alone]) == all_chapters()
    assert alone == [path for path in all_chapters() if facts(path)["measures_speed"]]
    minutes = [sum(facts(path)["minutes"] for path in row) for row in rows]
    assert max(minutes) < 0.65 * sum(minutes)
    for row in rows:  # what a chapter needs comes before it, or in the other row
        for number, path in enumerate(row):
            later = {facts(other)["makes"] for other in row[number + 1 :]}
            assert not later & set(facts(path)["needs"])


RUNNER = """
import signal, sys
from pathlib import Path
from suite import chapters, runner

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
chapters.NOTEBOOKS = Path(sys.argv[1])
sys.exit(runner.main(["run", *sys.argv[2:]]))
"""
LONG = """
import os, pathlib, time

pathlib.Path(run_dir, {!r}).write_text(str(os.getpid()))
time.sleep(300)
"""
STOPPED = (130, "Stopped before the first checkpoint of a training. The same command starts again.")
FAILED = (1, "ChapterError: 04_bad.ipynb, cell [4] 'cell-1', line 1: 1 / 0")


@pytest.mark.parametrize(
    ("names", "options", "end"),
    [
        (["04_long"], [], STOPPED),
        (["04_long", "06_long"], ["--side-by-side"], STOPPED),
        (["06_long"], ["--side-by-side"], FAILED),
    ],
)
def test_a_run_that_breaks_off_leaves_no_kernel(chapters, tmp_path, names, options, end):
    run, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    for name in names:
        write_chapter(chapters, name, LONG.format(name))
    if end is FAILED:
        write_chapter(chapters, "04_bad", WAIT.format("06_long"), "1 / 0")
    write_chapter(chapters, "08_after", "print('never')")
    command = [sys.executable, "-c", RUNNER, chapters, *options, "-p", "run_dir", run]
    env = os.environ | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not all((run / name).exists() for name in names) and time.monotonic() < deadline:
            time.sleep(0.1)
        if end is STOPPED:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == end[0]
    assert end[1] in said and "Traceback" not in said
    kernels = [int((run / name).read_text()) for name in names]
    left = [psutil.Process(kernel) for kernel in kernels if psutil.pid_exists(kernel)]
    psutil.wait_procs(left, timeout=20)
    assert not any(map(psutil.pid_exists, kernels))
    assert not (run / "08_after.ipynb").exists()
    assert end is STOPPED or list(temporary.iterdir()) == []


def test_ctrl_c_says_that_there_is_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "model-1" / "step-9").mkdir(parents=True)
    (tmp_path / "checkpoints" / "model-1" / "step-9" / "whole.json").touch()
    said = runner._stopped({"run_dir": str(tmp_path)})
    assert said.endswith("goes on from the last checkpoint.")


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("num_epoch: 1", "", r"unknown parameter 'num_epoch'; did you mean 'num_epochs'\?"),
        ("num_train: 0100\nseed: 1:30", "", "seed must be a whole number, but '1:30' is text"),
        ("seed: 1\nseed: 2", "", ".*my.yaml, line 2: 'seed' stands there twice"),
        ("seed: [1, 2]", "", ".*my.yaml, line 1: 'seed' holds more than one value"),
        ("? [1, 2]\n: 3", "", "unknown parameter .*"),
        ("", "-p num_train None", "num_train must be a whole number, but 'None' is text"),
        ("", "-p num_train 1e2", "num_train must be a whole number, but 100.0 is a number"),
        ("", "-p learning_rate nan", "learning_rate must be between .*, but it is nan"),
        ("", "-p learning_rate -1e-4", "learning_rate must be between .*, but it is -0.0001"),
        ("", "-p seed=-1", "seed must be between 0 and 4294967295, but it is -1"),
        ("", "-p seed", "-p seed gives no value; write -p seed=VALUE"),
        ("", "--name ../other", "--name is '../other', which leaves runs/; for another place .*"),
        ("- num_epochs", "", ".*my.yaml must hold lines of the form 'name: value'"),
        ("num_epochs: [", "", ".*my.yaml cannot be read: .*"),
        (None, "", ".*my.yaml cannot be read: .*"),
        ("on: true", "", "unknown parameter 'on'; known are .*"),
        ("", "0", "no chapter '0'; there are 01_good"),
        ("", "06_missing", "no chapter '06_missing'; there are 01_good"),
    ],
)
def test_what_cannot_run_is_refused(chapters, tmp_path, capsys, content, arguments, said):
    write_chapter(chapters, "01_good", "print('ran')")
    path, run = tmp_path / "my.yaml", tmp_path / "run"
    if content is not None:
        path.write_text(content)
    command = ["run", "-f", str(path), "-p", "run_dir", str(run), *arguments.split()]
    assert main(command) == 1
    assert re.fullmatch(f"(Parameter|Chapter)Error: {said}\n", capsys.readouterr().err)
    assert not run.exists()


@pytest.mark.parametrize(("number", "stem"), [("1", "01"), ("01", "01"), ("10", "10"), ("5", "05")])
def test_a_number_is_that_of_its_chapter(number, stem):
    assert [path.stem[:2] for path in runner._choose([number])] == [stem]


def test_values_on_the_command_line_win_over_the_file(chapters, tmp_path):
    write_chapter(chapters, "01_show", "print(num_train, learning_rate, device, group_by_length)")
    path, run = tmp_path / "my.yaml", tmp_path / "run"
    path.write_text("num_train: 50\nnum_eval: 60\n")
    given = "-p num_train 7 -p learning_rate 3e-5 -p device cpu -p group_by_length False"
    assert main(["run", "-f", str(path), *given.split(), "-p", "run_dir", str(run)]) == 0
    assert printed(run / "01_show.ipynb") == "7 3e-05 cpu False\n"


@pytest.mark.parametrize(
    ("content", "name", "run_dir"),
    [("run_dir: x", ["--name", "mine"], "runs/mine"), ("num_train: 5", [], "runs/my")],
)
def test_the_run_has_a_name_of_the_command_line_or_its_file(content, name, run_dir, tmp_path):
    (tmp_path / "my.yaml").write_text(content)
    arguments = runner._read_arguments(["run", "-f", str(tmp_path / "my.yaml"), *name])
    assert runner._read_parameters(arguments)["run_dir"] == run_dir


def test_a_text_is_what_was_typed(tmp_path):
    """Whatever YAML or Python would make of it: numbers, dates, nothing, yes and no."""
    words = ["no", "null", "~", "0101", "1:30", "2024-01-01", "5", "-7", "1e5", "None", "a=b"]
    path = tmp_path / "my.yaml"
    for word in words:
        path.write_text(f"text_column: {word}\nlearning_rate: 1e-5\ngroup_by_length: no\n")
        command = f"check -f {path} -p label_column {word} -p dataset_name={word}".split()
        values = runner._read_parameters(runner._read_arguments(command))
        names = ("text_column", "label_column", "dataset_name")
        assert [values[name] for name in names] == [word] * 3
        assert values["learning_rate"] == 1e-5 and values["group_by_length"] is False


def test_a_terminal_that_lacks_the_letters_shows_their_codes(tmp_path):
    rows = "".join(f"review {n},{'好坏'[n % 2]}\n" for n in range(90))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows, encoding="utf-8")
    command = ["-m", "suite", "check", "-p", f"dataset_name={tmp_path / 'rows.csv'}"]
    run = run_python(*command, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert run.stderr == ""
    assert "always answering '\\u597d' would be right for 50.0%" in run.stdout


def test_bars_stay_text_where_widgets_are_installed(chapters, tmp_path):
    """A saved notebook would keep the first state of a widget."""
    installed = "import tqdm.notebook\ntqdm.notebook.IProgress = object"
    read = "from suite.start import read_parameters\nread_parameters(globals())"
    kind = "from tqdm.auto import tqdm\nprint('notebook' in str(tqdm.__mro__), end='')"
    for name, sources in (("01_before", [installed, kind]), ("02_after", [installed, read, kind])):
        write_chapter(chapters, name, *sources)
    run_chapters(all_chapters(), {"run_dir": str(tmp_path / "run")}, progress=False)
    shown = [printed(tmp_path / "run" / f"{name}.ipynb") for name in ("01_before", "02_after")]
    assert shown == ["True", "False"]


def test_all_chapters_run_with_the_smoke_parameters_and_take_what_earlier_ones_made(smoke_run):
    """No progress bar of a model that an earlier chapter left: it was found, not trained again."""
    folder, run = smoke_run
    names = [path.stem for path in all_chapters()]
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == names
    for name in names:
        assert name in run.stdout and f"{name}: 100%" in run.stderr
    assert run.stdout.rstrip().endswith(f"predict {folder / 'model'} new.csv -o answers.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == names
    for figures in metrics.values():
        assert figures["seconds"] > 0 and figures["peak_memory_mib"] > 50
    assert f"accuracy {metrics['05_evaluation']['accuracy']:.3f}" in run.stdout
    taken = {"05_evaluation": "get-model", "08_trainer": "get-loop-model", "09_keras": "get-models"}
    for name, cell_id in taken.items():
        assert cells_of(folder / f"{name}.ipynb")[cell_id].outputs == [], name


def test_others_may_read_what_a_run_leaves(smoke_run):
    """As far as the umask lets them."""
    mask = os.umask(0)
    os.umask(mask)
    for path in smoke_run[0].rglob("[!.]*"):
        assert path.stat().st_mode & 0o777 & ~0o111 == 0o666 & ~mask, path


def test_the_overhead_of_a_chapter_is_a_part_of_its_time(smoke_run, monkeypatch):
    monkeypatch.setattr(overhead, "all_chapters", lambda: all_chapters()[:1])
    ((name, (seconds, kernel, imports)),) = overhead.overhead(smoke_run[0]).items()
    assert name == "01_prepare_data"
    assert 0.3 < kernel < seconds and imports > 0.3


def test_the_overhead_without_a_whole_run_ends_in_one_line(chapters, tmp_path, monkeypatch):
    """Before the first run, and after one that was broken off."""
    monkeypatch.setattr(overhead, "run_folder", lambda settings: tmp_path)
    write_chapter(chapters, "01_bad", "1 / 0", "print('never')")
    message = f"UserError: {tmp_path} holds no chapter that ran to its end: call `make run` first"
    for broken_off in (False, True):
        assert (tmp_path / "01_bad.ipynb").is_file() == broken_off
        with pytest.raises(SystemExit, match=f"^{message}$"):
            overhead.main()
        assert main(["run", "-p", "run_dir", str(tmp_path)]) == 1


@pytest.mark.parametrize("number", ["09", "10"])
def test_a_chapter_for_bert_takes_an_own_file(number, twenty_classes, tmp_path, monkeypatch):
    """The others take this file in tests/test_architectures.py, and run alone in tests/test_elsewhere.py."""
    names, parameters = twenty_classes
    run = tmp_path / "run"
    make_here(monkeypatch)
    run_here(number, check_values({**parameters, "run_dir": str(run)}))
    assert chapter(number).stem in json.loads((run / "metrics.json").read_text())
    if number == "09":
        labels = json.loads((run / "keras" / "labels.json").read_text())
        assert sorted(labels.values()) == names


@pytest.mark.parametrize("number", ["08", "10"])
def test_a_chapter_that_measures_speed_takes_a_single_step(number, smoke, monkeypatch):
    make_here(monkeypatch)
    few = {"num_train": 8, "num_validation": 2, "num_test": 2, "batch_size": 8, "num_epochs": 1}
    run_here(number, replace(smoke, **few))
    metrics = json.loads((run_folder(smoke) / "metrics.json").read_text())
    speed = {"08": "speed_of_trainer", "10": "samples_per_second"}[number]
    assert 0 < metrics[chapter(number).stem][speed] < math.inf


@pytest.mark.long
def test_the_long_reviews_work_in_the_same_way(tmp_path, monkeypatch):
    parameters = {**SMOKE, "dataset_name": "stanfordnlp/imdb", "run_dir": str(tmp_path / "run")}
    settings = check_values(parameters)
    make_here(monkeypatch)
    for number in ("01", "02", "05"):
        run_here(number, settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["01_prepare_data"]["mean_tokens"] > 30
