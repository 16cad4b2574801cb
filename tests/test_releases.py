"""A type checker finds the keyword that a release has renamed; where a function takes any, the test looks it up."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from conftest import SMOKE, STRICT
from suite.chapters import ROOT, all_chapters
from suite.errors import ChapterError
from suite.resolve import find_model
from suite.runner import run_chapters
from suite.settings import Settings, parameters_cell

WRONG = (ROOT / "tests/wrong_keywords.txt").read_text(encoding="utf-8")
FOUND = r'(?:No parameter named |^)"(\w+)"(?:$| is not a known attribute of module "(.+)")'
CODE = [
    path
    for glob in ["helpers/*.py", "suite/*.py", "benchmarks/roads.py"]
    for path in sorted(ROOT.glob(glob))
]

# Their functions may take any keyword, and do nothing with a wrong one.
FOLLOWED = r"(accelerate|datasets|evaluate|keras|keras_hub|tensorflow|transformers)\b"
# What a method is looked up in, and what else may have one of that name.
DATA = ("datasets:Dataset", "datasets:DatasetDict", "evaluate:EvaluationModule", "torch:Tensor")
MODELS = ("keras:Model", "torch.nn:Module", "transformers:PreTrainedModel", "transformers:Trainer")
OTHERS = ("numpy:ndarray", "pandas:DataFrame", "pandas:Series", "tensorflow:data.Dataset")
# Where the keywords go that a call, so written, passes on.
TOKENIZER = "transformers:PreTrainedTokenizerBase"
PIPELINE = "transformers:TextClassificationPipeline"
CALLS = {
    r"\w*model(\.eval\(\))?": ["transformers:BertForSequenceClassification.forward"],
    r"tokenizer|AutoTokenizer\.from_pretrained\(\)": [f"{TOKENIZER}.__call__"],
    r"AutoTokenizer\.from_pretrained": [f"{TOKENIZER}.from_pretrained"],
    r"Auto(Config|Model\w*)\.from_pretrained": ["transformers:PreTrainedModel.from_pretrained"],
    "load_dataset": ["datasets.packaged_modules.csv.csv:CsvConfig"],
    r"pipeline(\(\))?": [PIPELINE, f"{PIPELINE}._sanitize_parameters", f"{TOKENIZER}.__call__"],
    r"keras\.Model": ["keras.src.models.functional:Functional"],
}
# Keys of a dictionary that is unpacked into a call, where the code does not show them.
BATCH = ["input_ids", "attention_mask", "token_type_ids", "labels"]
UNPACKED = {"batch": BATCH, "inputs": BATCH, "source.options": ["data_files", "sep"]}
OLD = """
from suite.start import read_parameters
settings = read_parameters(globals())
import contextlib, warnings, datasets, evaluate, matplotlib.pyplot, pandas, sklearn, torch, transformers
from suite.resolve import find_model
transformers.AutoModel.from_pretrained(find_model(settings.model_name), torch_dtype=torch.float32)
for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
    for module in ("__main__", "transformers.trainer", "torch.optim"):
        with contextlib.suppress(category):
            warnings.warn_explicit("old", category, "file", 1, module=module)
            raise AssertionError(f"{category} of {module} passed")
warnings.warn("this is old", FutureWarning)
"""


def find(name):
    """The owner and the object of a name such as "torch.optim:AdamW" or "keras:Model.save"."""
    module, _, path = name.partition(":")
    owner = thing = importlib.import_module(module)
    for part in path.split("."):
        owner, thing = thing, getattr(thing, part, None)
    return owner, thing


def keywords(owner, thing):
    """What a function takes, and what those of the base classes take that it passes others on to."""
    owner, method = (thing, "__init__") if isinstance(thing, type) else (owner, thing.__name__)
    names = keywords(owner, owner) if method == "from_preset" else set()
    bases = [base for base in getattr(owner, "__mro__", ()) if method in vars(base)]
    for function in [getattr(base, method) for base in bases] or [thing]:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # in C: the first line of its help
            return set(re.findall(r"\w+", (function.__doc__ or "").strip().partition("\n")[0]))
        names |= {one.name for one in parameters}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    if method == "from_pretrained" and owner.__name__ == "PreTrainedModel":
        auto = find("transformers:AutoConfig")[1]
        names |= {*auto.from_pretrained(find_model(Settings().model_name)).to_dict(), "num_labels"}
        taken_out = {"attn_implementation", "device_map", "dtype", "subfolder"}
        names |= taken_out & set(re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(function)))
    return names


def taken(text, imports):
    """What a call of this text takes; None where a wrong keyword would be refused."""
    found = [find(n) for key, names in CALLS.items() if re.fullmatch(key, text) for n in names]
    owner, _, method = text.rpartition(".")
    if text.split(".")[0] in imports and "(" not in text:
        thing = eval(text, imports)
        if re.match(FOLLOWED, getattr(thing, "__module__", "")) and text != "DatasetDict":
            found.append((eval(owner or "None", imports), thing))
    elif owner and not found:
        methods = [find(f"{name}.{method}") for name in (*DATA, *MODELS, *OTHERS)]
        found = methods if any(thing for _, thing in methods[: -len(OTHERS)]) else []
    accepted = [keywords(*pair) for pair in found if callable(pair[1])]
    return set().union(*accepted) if accepted else None


def looked_up(source):
    """(line, name) of wrong keywords, and of methods that no callback has."""
    imports, written = {}, dict(UNPACKED)
    for node in sorted(ast.walk(ast.parse(source)), key=lambda node: getattr(node, "lineno", 0)):
        match node:
            case ast.Import() | ast.ImportFrom():
                exec(ast.unparse(node), imports)
            case ast.Assign([ast.Name(name)], ast.Dict(keys)):
                written[name] = [getattr(key, "value", None) for key in keys]
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name("dict"), [], items)):
                written[name] = [item.arg for item in items]
            case ast.Assign([ast.Subscript(ast.Name(name), ast.Constant(key))]) if name in written:
                written[name] = [*written[name], key]
            case ast.ClassDef(bases=[*_, base]) if "allback" in (text := ast.unparse(base)):
                for part in [p for p in node.body if getattr(p, "name", "").startswith("on_")]:
                    if not hasattr(eval(text, imports), part.name):
                        yield part.lineno, part.name
            case ast.Call(keywords=[_, *_]):
                names = taken(re.sub(r"\(.*\)", "()", ast.unparse(node.func)), imports)
                for keyword in node.keywords if names is not None else ():
                    unpacked = written.get(ast.unparse(keyword.value), ())
                    wrong = {*([keyword.arg] if keyword.arg else unpacked)} - names - {None}
                    yield from ((keyword.value.lineno, name) for name in wrong)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """(line, name) of what is wrong in the text of wrong keywords, and of each other file."""
    folder = tmp_path_factory.mktemp("checked")
    sources = {folder / "wrong.py": WRONG.replace("!", "")}
    for path in all_chapters():
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        code = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "\n".join(cells))  # without magics
        sources[folder / f"{path.stem}.py"] = code
    for path, source in sources.items():
        path.write_text(source, encoding="utf-8")
    sources |= {path: path.read_text(encoding="utf-8") for path in CODE}
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    report = json.loads(subprocess.run([*command, *sources], capture_output=True, cwd=ROOT).stdout)
    assert report["summary"]["filesAnalyzed"] == len(sources)
    found = {str(path): set(looked_up(source)) for path, source in sources.items()}
    for line in report["generalDiagnostics"]:
        for name, module in re.findall(FOUND, line["message"]):
            if not (module and hasattr(importlib.import_module(module), name)):
                found[line["file"]].add((line["range"]["start"]["line"] + 1, name))
    return found.pop(str(folder / "wrong.py")), found


def test_every_keyword_is_one_of_the_installed_library(checked):
    assert not {file: wrong for file, wrong in checked[1].items() if wrong}


def test_a_wrong_keyword_is_found(checked):
    marked = [re.findall(r"!(\w+)", line) for line in WRONG.splitlines()]
    assert checked[0] == {(n, name) for n, names in enumerate(marked, 1) for name in names}


def notices(path):
    """Lines on stderr of an executed chapter that call something deprecated."""
    return [
        f"{path.name}, cell {cell.id!r}: {line}"
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
        for line in output.text.splitlines()
        if re.search("deprecat|will be removed|FutureWarning", line, re.IGNORECASE)
    ]


def test_no_chapter_calls_what_is_deprecated(smoke_run):
    """In that run a deprecation warning is an error, and transformers says on stderr what is old."""
    folder, _ = smoke_run
    assert not [line for path in sorted(folder.glob("*.ipynb")) for line in notices(path)]


@pytest.mark.slow
def test_a_deprecated_call_is_found(tmp_path, monkeypatch):
    """Also after the libraries were imported, which could set the warnings back."""
    cells = [new_code_cell(parameters_cell().strip()), new_code_cell(OLD.strip())]
    cells[0].metadata.tags = ["parameters"]
    path, metadata = tmp_path / "01_old.ipynb", nbformat.read(all_chapters()[0], 4).metadata
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    for name, value in STRICT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ChapterError, match=r"FutureWarning: this is old"):
        run_chapters([path], {**SMOKE, "run_dir": str(tmp_path / "run")}, progress=False)
    assert any("torch_dtype" in line for line in notices(tmp_path / "run" / path.name))
