"""The runner: what it prints and keeps when all goes well, and when something breaks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from conftest import SMOKE
from maintenance import __main__ as maintenance
from maintenance import overhead
from suite import runner
from suite.chapters import ROOT, all_chapters, facts, plan
from suite.errors import UserError
from suite.runner import main, run_chapters
from suite.settings import parameters_cell


def write_chapter(folder, name, *sources, **facts):
    """A small chapter with the parameters cell and the given cells behind it, and facts about it."""
    cells = [new_code_cell(parameters_cell(), id="parameters", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernelspec, "suite": facts})
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """A folder that stands in for notebooks/; write chapters into it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr("suite.chapters.NOTEBOOKS", folder)
    return folder


def test_a_failing_chapter_is_named_with_cell_line_and_error(chapters, tmp_path, capsys):
    write_chapter(chapters, "01_good", "print('ran')")
    write_chapter(chapters, "02_bad", "x = 1", "y = 2\n\nprint(y / (x - 1))\n")
    write_chapter(chapters, "03_after", "print('never')")
    run = tmp_path / "run"
    assert main(["run", "-p", "run_dir", str(run)]) == 1
    message = capsys.readouterr().err
    assert "02_bad.ipynb, cell [4] 'cell-1', line 3: print(y / (x - 1))" in message
    assert "ZeroDivisionError: division by zero" in message
    assert "Traceback" not in message
    files = (path.name for path in run.iterdir() if not path.name.endswith(".lock"))
    assert sorted(files) == [
        "01_good.ipynb",
        "02_bad.ipynb",
        "metrics.json",
    ]
    assert "ran" in nbformat.read(run / "01_good.ipynb", as_version=4).cells[-1].outputs[0].text
    assert list(json.loads((run / "metrics.json").read_text())) == ["01_good"]


def test_figures_of_other_chapters_stay_and_stale_ones_go(chapters, tmp_path):
    record = "from suite.runs import record_metrics\nfrom suite.start import read_parameters\n"
    record += "record_metrics(read_parameters(globals()), {name!r}, seen=num_train)"
    for name in ("01_one", "02_two"):
        write_chapter(chapters, name, record.format(name=name))
    run = {"run_dir": str(tmp_path / "run")}
    run_chapters(all_chapters(), {**run, "num_train": 10}, progress=False)
    done = run_chapters(all_chapters()[1:], {**run, "num_train": 20}, progress=False)
    assert list(done) == ["02_two"]
    write_chapter(chapters, "02_two", "1 / 0")
    with pytest.raises(UserError):
        run_chapters(all_chapters()[1:], run, progress=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics) == ["01_one"]
    assert metrics["01_one"]["seen"] == 10


def test_a_line_of_a_function_that_fails_is_named_where_it_was_called(chapters, tmp_path, capsys):
    write_chapter(chapters, "01_bad", "def f(n):\n    return [][n]\n", "a = 1\nf(a)")
    assert main(["run", "-p", "run_dir", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "'cell-1', line 2: f(a)" in message
    assert "IndexError: list index out of range" in message


def test_a_killed_kernel_is_reported_as_killed(chapters, tmp_path, capsys):
    write_chapter(
        chapters,
        "01_big",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "print('never')",
    )
    assert main(["run", "-p", "run_dir", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "01_big.ipynb, cell 'cell-0': the kernel was killed" in message
    assert (tmp_path / "run" / "01_big.ipynb").is_file()


MEET = """
import os
import time
from pathlib import Path

from suite.start import read_parameters
from suite.runs import run_folder

folder = run_folder(read_parameters(globals()))
folder.joinpath("{own}").touch()
end = time.monotonic() + 60
while not folder.joinpath("{other}").exists() and time.monotonic() < end:
    time.sleep(0.1)
assert folder.joinpath("{other}").exists()
print(*map(os.environ.get, {names}))
"""


def test_rows_run_side_by_side_on_shared_cores_and_the_rest_alone(chapters, tmp_path, monkeypatch):
    """04 and 06 wait for each other; 08 measures speed and has to have all cores."""
    for name in runner.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda process: range(6), raising=False)
    for chapter, own, other in (("06_one", "one", "two"), ("04_two", "two", "one")):
        source = MEET.format(own=own, other=other, names=runner.THREADS)
        write_chapter(chapters, chapter, source, makes=own, minutes=2)
    after = "import os\nassert os.path.exists(run_dir + '/two')"
    write_chapter(chapters, "02_after_04", after, needs=["two"])
    alone = MEET.format(own="alone", other="one", names=runner.THREADS)
    write_chapter(chapters, "08_alone", alone, measures_speed=True)
    run = tmp_path / "run"
    parameters = {"run_dir": str(run)}
    done = run_chapters(all_chapters(), parameters, progress=False, side_by_side=True)
    names = ["02_after_04", "04_two", "06_one", "08_alone"]
    assert list(done) == list(json.loads((run / "metrics.json").read_text())) == names
    names.remove("02_after_04")
    texts = [nbformat.read(run / f"{n}.ipynb", 4).cells[-1].outputs[0].text for n in names]
    assert texts == ["3 3 3\n", "3 3 3\n", "None None None\n"]


def test_the_plan_of_the_chapters_keeps_to_what_they_need():
    rows, alone = plan(all_chapters(), 2)
    assert sorted([*sum(rows, []), *alone]) == all_chapters()
    assert all(facts(path)["measures_speed"] for path in alone) and len(alone) == 2
    minutes = [sum(facts(path)["minutes"] for path in row) for row in rows]
    assert max(minutes) < 0.65 * sum(minutes)
    for row in rows:  # what a chapter needs comes before it, or in the other row
        for number, path in enumerate(row):
            later = {facts(other)["makes"] for other in row[number + 1 :]}
            assert not later & set(facts(path)["needs"])


def test_temporary_files_of_a_chapter_go_with_the_run(chapters, tmp_path):
    path = write_chapter(chapters, "01_one", "import tempfile\nprint(tempfile.mkdtemp(), end='')")
    run_chapters([path], {"run_dir": str(tmp_path / "run")}, progress=False)
    folder = nbformat.read(tmp_path / "run" / path.name, 4).cells[-1].outputs[0].text
    assert "chapters-" in folder
    assert not Path(folder).parent.exists()


RUNNER = """
import signal
import sys
from pathlib import Path

from suite import chapters, runner

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
chapters.NOTEBOOKS = Path({chapters!r})
sys.exit(runner.main(["run", *{options!r}, "-p", "run_dir", {run!r}]))
"""


def start_runner(chapters, run, *options):
    """Start the runner with a temporary folder of its own, `run/../temporary`."""
    temporary = run.parent / "temporary"
    temporary.mkdir()
    code = RUNNER.format(chapters=str(chapters), run=str(run), options=options)
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def ends(pid_file):
    """Tell whether the process whose id stands in the file ends within some seconds."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.wait_procs([psutil.Process(int(pid_file.read_text()))], timeout=20)
    return not psutil.pid_exists(int(pid_file.read_text()))


LONG = """
import os
import time
from pathlib import Path

Path({pid_file!r}).write_text(str(os.getpid()))
time.sleep(300)
"""


def test_a_failing_chapter_ends_the_one_beside_it(chapters, tmp_path):
    pid_file, run = tmp_path / "pid", tmp_path / "run"
    write_chapter(chapters, "06_long", LONG.format(pid_file=str(pid_file)))
    wait = f"import time, pathlib\nwhile not pathlib.Path({str(pid_file)!r}).exists():\n    time.sleep(0.1)"
    write_chapter(chapters, "04_bad", wait, "1 / 0")
    write_chapter(chapters, "08_after", "print('never')")
    process = start_runner(chapters, run, "--side-by-side")
    try:
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "ChapterError: 04_bad.ipynb, cell [4] 'cell-1', line 1: 1 / 0" in said
    assert "Traceback" not in said
    assert ends(pid_file)
    assert not (run / "08_after.ipynb").exists()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
@pytest.mark.parametrize(
    ("options", "names"), [(["--side-by-side"], ["04_long", "06_long"]), ([], ["04_long"])]
)
def test_a_run_that_is_interrupted_leaves_no_kernel(chapters, tmp_path, options, names):
    files = {name: tmp_path / name for name in names}
    for name, file in files.items():
        write_chapter(chapters, name, LONG.format(pid_file=str(file)))
    process = start_runner(chapters, tmp_path / "run", *options)
    end = time.monotonic() + 60
    while not all(file.exists() for file in files.values()) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped. The same command goes on from the last checkpoint." in said
    assert "Traceback" not in said
    assert all(ends(file) for file in files.values())


def test_unknown_parameters_are_refused_before_the_first_chapter(chapters, tmp_path, capsys):
    write_chapter(chapters, "01_good", "print('ran')")
    run = tmp_path / "run"
    assert main(["run", "-p", "num_epoch", "1", "-p", "run_dir", str(run)]) == 1
    assert (
        capsys.readouterr().err
        == "ParameterError: unknown parameter 'num_epoch'; did you mean 'num_epochs'?\n"
    )
    assert not run.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_epoch: 1", "did you mean 'num_epochs'?"),
        (
            "learning_rate: 1e-4",
            "learning_rate must be a number, but '1e-4' is text; in YAML write 1.0e-4, not 1e-4",
        ),
        ("- num_epochs", "must hold lines of the form 'name: value'"),
        ("num_epochs: [", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_parameter_file_is_refused_in_one_line(chapters, tmp_path, capsys, content, message):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["run", "-f", str(path)]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_an_unknown_chapter_is_refused(capsys):
    assert main(["run", "06_missing"]) == 1
    assert "no chapter '06_missing'; there are 01_prepare_data, " in capsys.readouterr().err


def test_values_on_the_command_line_win_over_the_file(chapters, tmp_path):
    write_chapter(chapters, "01_show", "print(num_train, learning_rate, device, group_by_length)")
    path = tmp_path / "my.yaml"
    path.write_text("num_train: 50\nnum_eval: 60\n")
    run = tmp_path / "run"
    values = {
        "num_train": "7",
        "learning_rate": "3e-5",
        "device": "cpu",
        "group_by_length": "False",
        "run_dir": run,
    }
    arguments = [word for name, value in values.items() for word in ("-p", name, str(value))]
    assert main(["run", "-f", str(path), *arguments]) == 0
    executed = nbformat.read(run / "01_show.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "7 3e-05 cpu False\n"


def test_an_error_without_a_traceback_names_no_line(chapters, tmp_path, capsys):
    source = "import os\nfrom suite.resolve import find_model\n\nfind_model('./none')"
    write_chapter(chapters, "01_bad", source)
    assert main(["run", "-p", "run_dir", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "01_bad.ipynb, cell [3] 'cell-0'\n  SourceError: model_name: nothing lies at" in message


def test_the_name_on_the_command_line_wins(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("run_dir: elsewhere")
    arguments = runner._read_arguments(["run", "-f", str(path), "--name", "mine"])
    assert runner._read_parameters(arguments)["run_dir"] == "runs/mine"


def test_the_run_is_called_after_its_parameter_file(chapters):
    arguments = runner._read_arguments(["run", "-f", str(chapters.parent / "x.yaml")])
    chapters.parent.joinpath("x.yaml").write_text("num_train: 5")
    assert runner._read_parameters(arguments)["run_dir"] == "runs/x"


def test_all_chapters_run_with_the_smoke_parameters(smoke_run):
    folder, run, _ = smoke_run
    assert run.returncode == 0, run.stderr
    names = [path.stem for path in all_chapters()]
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == names
    for name in names:
        assert name in run.stdout
        assert f"{name}: 100%" in run.stderr
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == names
    assert all(
        figures["seconds"] > 0 and figures["peak_memory_mib"] > 50 for figures in metrics.values()
    )
    assert f"accuracy {metrics['05_evaluation']['accuracy']:.3f}" in run.stdout


def test_later_chapters_take_what_earlier_ones_made(smoke_run):
    """No progress bar of a model that an earlier chapter left: it was found, not trained again."""
    folder, _, _ = smoke_run
    taken = {"05_evaluation": "get-model", "08_trainer": "get-loop-model", "09_keras": "get-models"}
    for chapter, cell_id in taken.items():
        cells = nbformat.read(folder / f"{chapter}.ipynb", as_version=4).cells
        (cell,) = [cell for cell in cells if cell.id == cell_id]
        assert cell.outputs == [], chapter


def test_the_overhead_of_a_chapter_is_a_part_of_its_time(smoke_run, monkeypatch):
    folder, _, _ = smoke_run
    monkeypatch.setattr(overhead, "all_chapters", lambda: all_chapters()[:1])
    ((chapter, (seconds, kernel, imports)),) = overhead.overhead(folder).items()
    assert chapter == "01_prepare_data"
    assert 0.3 < kernel < seconds
    assert imports > 0.3


@pytest.mark.parametrize("state", ["nothing ran", "broken off"])
def test_the_overhead_without_a_whole_run_ends_in_one_line(chapters, tmp_path, monkeypatch, state):
    write_chapter(chapters, "01_bad", "1 / 0", "print('never')")
    if state == "broken off":
        assert main(["run", "-p", "run_dir", str(tmp_path)]) == 1
        assert (tmp_path / "01_bad.ipynb").is_file()
    monkeypatch.setattr(maintenance, "run_folder", lambda settings: tmp_path)
    with pytest.raises(SystemExit) as stop:
        maintenance.main(["overhead"])
    message = f"UserError: {tmp_path} holds no chapter that ran to its end: call `make run` first"
    assert stop.value.code == message


@pytest.mark.parametrize("chapter", ["09_keras", "10_make_it_fast"])
def test_a_chapter_for_bert_runs_alone_on_an_own_file(chapter, twenty_classes, tmp_path):
    """The others take this file in tests/test_architectures.py, and run alone in tests/test_elsewhere.py."""
    names, parameters = twenty_classes
    run = tmp_path / "run"
    (path,) = [path for path in all_chapters() if path.stem == chapter]
    metrics = run_chapters([path], {**parameters, "run_dir": str(run)}, progress=False)
    assert list(metrics) == [chapter]
    if chapter == "09_keras":
        labels = json.loads((run / "keras" / "labels.json").read_text())
        assert sorted(labels.values()) == names


@pytest.mark.elsewhere
def test_the_long_reviews_work_in_the_same_way(tmp_path):
    parameters = {**SMOKE, "dataset_name": "stanfordnlp/imdb", "run_dir": str(tmp_path / "run")}
    chapters = [path for path in all_chapters() if path.stem[:2] in ("01", "02", "05")]
    metrics = run_chapters(chapters, parameters, progress=False)
    assert metrics["01_prepare_data"]["mean_tokens"] > 30


def test_an_error_of_our_own_is_one_line_in_a_notebook(chapters, tmp_path):
    write_chapter(
        chapters, "01_bad", "from suite.resolve import find_model\nfind_model('./nothing')"
    )
    with pytest.raises(UserError):
        run_chapters(all_chapters(), {"run_dir": str(tmp_path / "run")}, progress=False)
    output = nbformat.read(tmp_path / "run" / "01_bad.ipynb", as_version=4).cells[-1].outputs[0]
    assert len(output.traceback) == 1
    assert output.traceback[0].startswith("SourceError: model_name: nothing lies at './nothing'")
