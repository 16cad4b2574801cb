"""Bad parameters are refused in one line, before anything slow."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from suite.chapters import all_chapters
from suite.errors import UserError
from suite.resolve import longest_input
from suite.runner import kernel_config
from suite.settings import PARAMETERS, Settings, parameters_cell
from suite.start import check_values, read_parameters

REVIEWS = repr(Settings().dataset_name)
# parameters that are wrong -> what the message has to say
BAD = [
    ({"num_epoch": 1}, "unknown parameter 'num_epoch'; did you mean 'num_epochs'?"),
    ({"epochs": 1}, "unknown parameter 'epochs'; did you mean 'num_epochs'?"),
    ({"learning_rat": 1e-4}, "did you mean 'learning_rate'?"),
    ({"Learning_Rate": 1e-4}, "did you mean 'learning_rate'?"),
    ({"batchsize": 8}, "did you mean 'batch_size'?"),
    ({"modelname": "x"}, "did you mean 'model_name'?"),
    ({"zzz": 1}, "unknown parameter 'zzz'; known are model_name, "),
    ({"num_epochs": 0}, "num_epochs must be between 1 and 1000, but it is 0"),
    ({"num_epochs": -1}, "num_epochs must be between 1 and 1000, but it is -1"),
    ({"num_epochs": 1001}, "num_epochs must be between 1 and 1000"),
    ({"num_epochs": 1.5}, "num_epochs must be a whole number, but 1.5 is a number"),
    ({"num_epochs": "3"}, "num_epochs must be a whole number, but '3' is text"),
    ({"num_epochs": True}, "num_epochs must be a whole number, but True is True or False"),
    ({"num_epochs": None}, "num_epochs must be a whole number, but None is NoneType"),
    ({"num_epochs": [3]}, "num_epochs must be a whole number, but [3] is list"),
    ({"num_train": 0}, "num_train must be between 2 and"),
    ({"num_train": 1}, "num_train must be between 2 and"),
    ({"num_train": 6163}, f"num_train is 6163, but {REVIEWS} has 6162 rows for it"),
    ({"num_validation": 1089}, f"num_validation is 1089, but {REVIEWS} has 1088 rows"),
    ({"num_eval": 1281}, "set num_eval to 1280 or less"),
    ({"num_train": 20000, "dataset_name": "stanfordnlp/imdb"}, "but 'stanfordnlp/imdb' has 17"),
    ({"num_eval": 1000.0}, "num_eval must be a whole number, but 1000.0 is a number"),
    ({"max_length": 3}, "max_length must be between 4 and 8192, but it is 3"),
    ({"max_length": 513}, "reads at most 512 tokens; set max_length to 512 or less"),
    ({"max_length": "long"}, "max_length must be a whole number, but 'long' is text"),
    ({"batch_size": 0}, "batch_size must be between 1 and 1024, but it is 0"),
    ({"batch_size": 2048}, "batch_size must be between 1 and 1024"),
    ({"group_by_length": 1}, "group_by_length must be True or False, but 1 is a whole number"),
    ({"group_by_length": "yes"}, "group_by_length must be True or False, but 'yes' is text"),
    ({"learning_rate": 0}, "learning_rate must be between 1e-08 and 1.0, but it is 0"),
    ({"learning_rate": -5e-5}, "learning_rate must be between 1e-08 and 1.0, but it is -5e-05"),
    ({"learning_rate": 5.0}, "learning_rate must be between 1e-08 and 1.0, but it is 5.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be between 1e-08 and 1.0, but it is nan"),
    ({"learning_rate": float("inf")}, "learning_rate must be between 1e-08 and 1.0, but it is inf"),
    ({"learning_rate": "1e-4"}, "must be a number, but '1e-4' is text; in YAML write 1.0e-4"),
    ({"weight_decay": -0.1}, "weight_decay must be between 0.0 and 1.0, but it is -0.1"),
    ({"weight_decay": 2}, "weight_decay must be between 0.0 and 1.0, but it is 2"),
    ({"warmup_ratio": 1.5}, "warmup_ratio must be between 0.0 and 1.0, but it is 1.5"),
    ({"warmup_ratio": 100}, "warmup_ratio must be between 0.0 and 1.0, but it is 100"),
    ({"max_grad_norm": 0}, "max_grad_norm must be between 0.001 and 1000.0, but it is 0"),
    ({"attention_dropout": 1.0}, "attention_dropout must be between 0.0 and 0.9, but it is 1.0"),
    ({"seed": -1}, "seed must be between 0 and 4294967295, but it is -1"),
    ({"seed": 2**32}, "seed must be between 0 and"),
    ({"seed": "random"}, "seed must be a whole number, but 'random' is text"),
    ({"device": "gpu"}, "device must be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps', but it is 'gpu'"),
    ({"device": "cuda:first"}, "device must be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'"),
    ({"device": "0"}, "device must be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps', but it is '0'"),
    ({"device": 0}, "must be text, but 0 is a whole number; with papermill write -r device 0"),
    ({"run_dir": 2026}, "2026 is a whole number; with papermill write -r run_dir 2026"),
    ({"run_dir": ""}, "run_dir must be text of printable characters, not blank"),
    ({"run_dir": "a\nb"}, "run_dir must be text of printable characters, not blank"),
    ({"text_column": " "}, "text_column must be text of printable characters, not blank"),
    ({"label_column": "text"}, "text_column and label_column are both 'text'"),
    ({"label_column": "stars"}, "has no column 'stars'; it has text, label"),
    ({"model_name": "./no-such-model"}, "model_name: nothing lies at './no-such-model'"),
    ({"model_name": "not a model"}, "model_name: nothing lies at 'not a model'"),
    ({"model_name": "stanfordnlp/imdb"}, "model_name: 'stanfordnlp/imdb' is a data set"),
    ({"model_name": "owner/name@"}, "model_name: nothing lies at 'owner/name@'"),
    ({"model_name": "owner/name@a@b"}, "a Hub id such as 'owner/name' or 'owner/name@revision'"),
    ({"dataset_name": Settings().model_name}, "all-MiniLM-L6-v2' is a model"),
    ({"dataset_name": "missing.csv"}, "dataset_name: nothing lies at 'missing.csv'"),
    ({"dataset_name": "a/b/c"}, "dataset_name: nothing lies at 'a/b/c'"),
]


@pytest.mark.parametrize(
    ("parameters", "message"), BAD, ids=[str(parameters) for parameters, _ in BAD]
)
def test_bad_value_is_refused_in_one_line(parameters, message, root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(UserError) as error:
        check_values(parameters)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Arguments: a list of parameters, and modules that a refusal must not load.
REFUSE = """
import json, sys
from time import process_time
import pandas
from suite.errors import UserError
from suite.start import check_values

start_of_python = process_time()
for parameters in json.loads(sys.argv[1]):
    start = process_time()
    try:
        sys.exit(f"accepted {check_values(parameters)}")
    except UserError:
        effort = (process_time() - start) / start_of_python
    if effort > 5:
        sys.exit(f"{effort:.1f} times as long as to start Python with pandas: {parameters}")
    heavy = set(sys.argv[2:]) & set(sys.modules)
    if heavy:
        sys.exit(f"{parameters} imported {heavy}")
"""


def refuse_in_a_process(given, heavy, root):
    """Each is refused with little processor time, and without loading the heavy modules."""
    command = [sys.executable, "-c", REFUSE, json.dumps(given), *heavy]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_nothing_heavy_is_imported_before_the_refusal(root):
    heavy = ("torch", "transformers", "datasets", "evaluate", "sklearn")
    refuse_in_a_process([parameters for parameters, _ in BAD], heavy, root)


def code_cells(chapter):
    """The sources of a chapter's code cells, by their ids."""
    cells = nbformat.read(chapter, as_version=4).cells
    return {cell.id: cell.source for cell in cells if cell.cell_type == "code"}


def in_notebook(*cells):
    """The namespace that a kernel has when the cell behind these runs."""
    namespace = {}
    for cell in cells:
        exec(cell, namespace)
    return {**namespace, "In": ["", *cells, "settings = read_parameters(globals())"]}


REFUSALS = [
    ({"num_epoch": 1}, "ParameterError", "did you mean 'num_epochs'?"),
    ({"num_train": 10**6}, "ParameterError", "has 6162 rows for it"),
    ({"dataset_name": "missing.csv"}, "SourceError", "nothing lies at 'missing.csv'"),
]


@pytest.mark.parametrize("chapter", all_chapters(), ids=lambda path: path.stem)
@pytest.mark.parametrize(("parameters", "ename", "message"), REFUSALS, ids=str)
def test_every_chapter_refuses_before_it_starts(chapter, parameters, ename, message, tmp_path):
    cells = code_cells(chapter)
    values = {**parameters, "run_dir": str(tmp_path / "run")}
    injected = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    with pytest.raises(UserError, match=re.escape(message)) as error:
        exec(cells["read-parameters"], in_notebook(cells["parameters"], injected))
    assert type(error.value).__name__ == ename
    assert not (tmp_path / "run").exists()


def test_a_kernel_shows_a_refusal_as_one_line(tmp_path):
    parameters, ename, message = REFUSALS[-1]
    parameters = {**parameters, "run_dir": str(tmp_path / "run")}
    with pytest.raises(PapermillExecutionError) as error, kernel_config() as config:
        papermill.execute_notebook(
            all_chapters()[0], None, parameters=parameters, progress_bar=False, config=config
        )
    assert error.value.ename == ename
    assert message in error.value.evalue
    assert error.value.traceback == [f"{ename}: {error.value.evalue}"]
    assert not (tmp_path / "run").exists()


def papermill_command(*arguments):
    command = [sys.executable, "-m", "papermill", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_papermill_command_names_the_right_parameter(tmp_path, loopback):
    run = papermill_command(all_chapters()[3], tmp_path / "out.ipynb", "-p", "num_epoch", "1")
    assert run.returncode == 1
    assert "ParameterError: unknown parameter 'num_epoch'; did you mean 'num_epochs'?" in run.stderr


def test_help_explains_every_parameter_of_a_chapter():
    run = papermill_command("--help-notebook", all_chapters()[0])
    assert run.returncode == 0, run.stderr
    text = " ".join(run.stdout.split())
    names = [line.target.id for line in ast.parse(code_cells(all_chapters()[0])["parameters"]).body]
    assert {"seed", "run_dir"} < set(names)
    for name in names:
        assert f"{name}: {PARAMETERS[name].type.__name__} (default" in text
        assert PARAMETERS[name].metadata["meaning"].split(";")[0] in text


def test_defaults_are_accepted():
    assert read_parameters(in_notebook(parameters_cell())) == Settings()


def test_injected_values_win_and_whole_numbers_do_for_numbers():
    settings = read_parameters(
        in_notebook(parameters_cell(), "# Parameters\nweight_decay = 0\nnum_train = 10\n")
    )
    assert (settings.weight_decay, settings.num_train) == (0.0, 10)
    assert isinstance(settings.weight_decay, float)


def test_a_name_misspelt_in_the_cell_itself_is_refused():
    namespace = in_notebook(parameters_cell() + "\nnum_epoch: int = 1\n")
    with pytest.raises(UserError, match="unknown parameter 'num_epoch'"):
        read_parameters(namespace)


def test_names_of_the_lesson_are_no_parameters():
    """The second run of the cell in Jupyter sees every name that the chapter has made since."""
    namespace = in_notebook("accuracy = 0.5\nnum_labels = 2", parameters_cell())
    assert read_parameters(namespace) == Settings()
    namespace["In"] = [*namespace["In"], "settings = read_parameters(globals())"]
    assert read_parameters(namespace) == Settings()


def test_papermill_may_give_what_the_cells_of_a_chapter_do_not_use():
    namespace = in_notebook(parameters_cell(["num_train"]), "num_epochs = 7\n")
    namespace["batch_size"] = 999  # a name of the lesson, and no parameter of this chapter
    assert read_parameters(namespace) == replace(Settings(), num_epochs=7)


def test_a_missing_parameters_cell_is_named():
    with pytest.raises(UserError, match="run the cell tagged 'parameters' first"):
        read_parameters({"In": ["", "settings = read_parameters(globals())"]})


def test_longest_input_of_the_packaged_model():
    assert longest_input(Settings().model_name) == 512
