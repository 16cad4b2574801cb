"""Bad parameters are refused in one line, before anything slow."""

import ast
import json
import math
from dataclasses import replace

import nbformat
import pytest
from lessons import one_line, run_python

from suite.chapters import all_chapters
from suite.errors import UserError
from suite.settings import PARAMETERS, Settings, parameters_cell
from suite.start import check_values, read_parameters

REVIEWS = repr(Settings().dataset_name)
KINDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
VALUES = {"text": "3", "a whole number": 7, "a number": 1000.0, "True or False": True}
DEVICES = "device must be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps', but it is "


def wrong_values():
    """Values of another type, blank or just out of range, for every parameter."""
    for name, parameter in PARAMETERS.items():
        wanted, low = KINDS[parameter.type], parameter.metadata["low"]
        for kind, value in {**VALUES, "nothing": None, "list": [3]}.items():
            if kind != wanted and (kind, wanted) != ("a whole number", "a number"):
                yield {name: value}, f"{name} must be {wanted}, but {value!r} is {kind}"
        for value in ("", " ", "a\nb") if wanted == "text" else ():
            yield {name: value}, f"{name} must be text of printable characters, not blank"
        if low is not None:
            high = parameter.metadata["high"]
            outside = [low - 1, high + 1]
            if wanted == "a number":
                outside = [math.nextafter(low, -1), math.nextafter(high, 9999), math.nan]
            for value in outside:
                yield {name: value}, f"{name} must be between {low} and {high}, but it is {value!r}"


# parameters that are wrong -> what the message has to say
BAD = [
    *wrong_values(),
    ({"epochs": 1}, "unknown parameter 'epochs'; did you mean 'num_epochs'?"),
    ({"Learning_Rate": 1e-4}, "did you mean 'learning_rate'?"),
    ({"modelname": "x"}, "did you mean 'model_name'?"),
    ({"zzz": 1}, "unknown parameter 'zzz'; known are model_name, "),
    ({"num_train": 6163}, f"num_train is 6163, but {REVIEWS} has 6162 rows for it"),
    ({"num_validation": 1089}, f"num_validation is 1089, but {REVIEWS} has 1088 rows"),
    ({"num_test": 1281}, "set num_test to 1280 or less"),
    ({"num_train": 20000, "dataset_name": "stanfordnlp/imdb"}, "but 'stanfordnlp/imdb' has 17"),
    ({"max_length": 513}, "reads at most 512 tokens; set max_length to 512 or less"),
    ({"learning_rate": 0}, "learning_rate must be between 1e-08 and 1.0, but it is 0"),
    ({"learning_rate": "1e-4"}, "must be a number, but '1e-4' is text; in YAML write 1.0e-4"),
    ({"device": "gpu"}, f"{DEVICES}'gpu'"),
    ({"device": "cuda:first"}, f"{DEVICES}'cuda:first'"),
    ({"device": "0"}, f"{DEVICES}'0'"),
    ({"device": 0}, "must be text, but 0 is a whole number; with papermill give it by -r"),
    ({"label_column": False}, "must be text, but False is True or False; with papermill give"),
    ({"device": "cuda:77"}, "device 'cuda:77' is not there; set device to 'auto'"),
    ({"device": "mps"}, "device 'mps' is not there"),
    ({"long_texts": "tail"}, "must be 'cut', 'head_tail' or 'windows', but it is 'tail'"),
    ({"accumulation_steps": 3}, "accumulation_steps is 3, which does not divide batch_size (16)"),
    ({"label_column": "text"}, "text_column and label_column are both 'text'"),
    ({"label_column": "stars"}, "has no column 'stars'; it has text, label"),
    ({"model_name": "./no-such-model"}, "model_name: nothing lies at './no-such-model'"),
    ({"model_name": "not a model"}, "model_name: nothing lies at 'not a model'"),
    ({"model_name": "stanfordnlp/imdb"}, "model_name: 'stanfordnlp/imdb' is a data set"),
    ({"model_name": "owner/name@a@b"}, "a Hub id such as 'owner/name' or 'owner/name@revision'"),
    ({"dataset_name": Settings().model_name}, "all-MiniLM-L6-v2' is a model"),
    ({"dataset_name": "a/b/c"}, "dataset_name: nothing lies at 'a/b/c'"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=[str(bad) for bad, _ in BAD])
def test_bad_value_is_refused_in_one_line(parameters, message, root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(UserError, check=one_line(message)):
        check_values(parameters)


def test_a_parameter_of_another_name_before_is_taken_and_said(capsys):
    assert check_values({"num_eval": 50, "seed": 7}) == Settings(num_test=50, seed=7)
    assert capsys.readouterr().out == "num_eval is called num_test now\n"


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
        assert process_time() - start < 5 * start_of_python, parameters
        assert not set(sys.argv[2:]) & set(sys.modules), parameters
"""


def refuse_in_a_process(given, *heavy):
    """Each is refused with little processor time, and without loading the heavy modules."""
    run_python("-c", REFUSE, json.dumps(given), *heavy)


def test_nothing_heavy_is_imported_before_the_refusal():
    """But torch, which alone knows what devices there are."""
    light = [values for values, message in BAD if "is not there" not in message]
    refuse_in_a_process(light, "torch", "transformers", "datasets", "evaluate", "sklearn")


def code_cells(chapter):
    cells = nbformat.read(chapter, as_version=4).cells
    return {cell.id: cell.source for cell in cells if cell.cell_type == "code"}


READ = "settings = read_parameters(globals())"


def in_notebook(*cells):
    """The namespace that a kernel has when the cell behind these runs."""
    namespace = {}
    for cell in cells:
        exec(cell, namespace)
    return {**namespace, "In": ["", *cells, READ]}


REFUSED = {
    "num_epoch = 1": "unknown parameter 'num_epoch'",
    "num_train = 1_000_000": "has 6162 rows for it",
    "dataset_name = 'missing.csv'": "nothing lies at 'missing.csv'",
}


@pytest.mark.parametrize("injected", REFUSED)
@pytest.mark.parametrize("chapter", all_chapters(), ids=lambda path: path.stem)
def test_every_chapter_refuses_before_it_starts(chapter, injected, tmp_path):
    cells, run = code_cells(chapter), tmp_path / "run"
    names = in_notebook(cells["parameters"], f"# Parameters\n{injected}\nrun_dir = '{run}'")
    with pytest.raises(UserError, match=REFUSED[injected]):
        exec(cells["read-parameters"], names)
    assert not run.exists()


def test_papermill_command_names_the_right_parameter(tmp_path, loopback):
    command = [all_chapters()[3], tmp_path / "out.ipynb", "-p", "num_epoch", "1"]
    run = run_python("-m", "papermill", *command, code=1)
    assert "ParameterError: unknown parameter 'num_epoch'; did you mean 'num_epochs'?" in run.stderr


def test_help_explains_every_parameter_of_a_chapter():
    run = run_python("-m", "papermill", "--help-notebook", all_chapters()[0])
    text = " ".join(run.stdout.split())
    names = [line.target.id for line in ast.parse(code_cells(all_chapters()[0])["parameters"]).body]
    assert {"seed", "run_dir"} < set(names)
    for name in names:
        assert f"{name}: {PARAMETERS[name].type.__name__} (default" in text
        assert PARAMETERS[name].metadata["meaning"].split(";")[0] in text


ALL, ONE = parameters_cell(), parameters_cell(["device"])


@pytest.mark.parametrize(
    ("cells", "changes"),
    [
        ([ALL], {}),
        ([ALL, "# Parameters\nseed = 7\nweight_decay = 0\n"], {"seed": 7, "weight_decay": 0.0}),
        # Of parameters that the chapter's cells do not use: papermill may give them, a lesson may not.
        (["batch_size = 999", ONE, "# Parameters\nnum_epochs = 7\n"], {"num_epochs": 7}),
    ],
)
def test_the_cell_of_parameters_is_read_and_what_papermill_puts_behind_it(cells, changes):
    namespace = in_notebook(*cells)
    for _ in range(2):  # the second time in Jupyter with the names that the chapter has made since
        settings = read_parameters(namespace)
        assert settings == replace(Settings(), **changes)
        assert isinstance(settings.weight_decay, float)
        namespace |= {"accuracy": 0.5, "In": [*namespace["In"], "accuracy = 0.5", READ]}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([ALL + "\nnum_epoch: int = 1\n"], "unknown parameter 'num_epoch'"),
        ([], "run the cell tagged 'parameters' first"),
        (["# Parameters\nseed = 7\n", ALL], "which undoes them: give that cell the tag"),
    ],
)
def test_cells_that_are_no_parameters_are_refused(cells, message):
    with pytest.raises(UserError, match=message):
        read_parameters(in_notebook(*cells))
