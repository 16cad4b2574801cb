"""A new release of a library does not break a chapter in silence.

Every keyword that a chapter or a helper passes is looked up in the installed libraries, also where
a function takes any keyword and a wrong one would do nothing. No chapter calls what is deprecated.
"""

import ast
import builtins
import importlib
import inspect
import re
import sys
import textwrap
from collections import ChainMap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, UnionType
from typing import Self, TypeVar, Union, get_args, get_origin

import nbformat
import pytest
from helpers.parameters import parameters_cell
from helpers.runner import ChapterError, all_chapters, run_chapters
from nbformat.v4 import new_code_cell, new_notebook

from conftest import SMOKE, STRICT

ROOT = Path(__file__).resolve().parent.parent
HELPERS = sorted((ROOT / "helpers").rglob("*.py"))

# Libraries whose **keywords are followed to the end. Others refuse a wrong one when they are called.
FOLLOWED = {
    "accelerate",
    "datasets",
    "evaluate",
    "keras",
    "keras_hub",
    "tensorflow",
    "torch",
    "transformers",
}
# Imported only for a file that imports one of them: they take seconds.
SLOW = {"keras", "keras_hub", "tensorflow"}

MODEL = "transformers:BertForSequenceClassification"
# What a name stands for where the code alone does not tell: parameters, loop variables, attributes.
NAMES = {
    "attention": ["transformers.models.bert.modeling_bert:BertAttention"],
    "accelerator": ["accelerate:Accelerator"],
    "axes": ["matplotlib.axes:Axes"],
    "backbone": ["keras_hub:models.Backbone"],
    "batch": ["transformers:BatchEncoding"],
    "class_label": ["datasets:ClassLabel"],
    "classifier": ["keras:Model"],
    "config": ["transformers:PreTrainedConfig"],
    "decoder": ["codecs:IncrementalDecoder"],
    "dataset": ["datasets:DatasetDict", "datasets:Dataset", "tensorflow:data.Dataset"],
    "ends": ["pandas:Series"],
    "every": ["pandas:DataFrame"],
    "figure": ["matplotlib.figure:Figure"],
    "file": ["pathlib:Path"],
    "folder": ["pathlib:Path"],
    "labels": ["numpy:ndarray", "torch:Tensor"],
    "lengths": ["torch:Tensor"],
    "logits": ["torch:Tensor", "numpy:ndarray"],
    "loss": ["torch:Tensor"],
    "lr_scheduler": ["torch.optim.lr_scheduler:LRScheduler"],
    "metric": ["evaluate:EvaluationModule"],
    "model": [MODEL, "keras:Model"],
    "optimizer": ["torch.optim:Optimizer", "keras:Optimizer"],
    "path": ["pathlib:Path"],
    "predictions": ["numpy:ndarray", "torch:Tensor"],
    "probabilities": ["numpy:ndarray"],
    "progress_bar": ["tqdm.auto:tqdm"],
    "reviews": ["pandas:DataFrame"],
    "rows": ["datasets:DatasetDict", "datasets:Dataset"],
    "specifier": ["packaging.specifiers:SpecifierSet"],
    "splits": ["datasets:DatasetDict"],
    "texts": ["pandas:Series"],
    "tokenized_datasets": ["datasets:DatasetDict"],
    "tokenizer": ["transformers:PreTrainedTokenizerBase"],
    "trainer": ["transformers:Trainer"],
    "v": ["torch:Tensor"],
}
# What a call returns where the library does not say so itself.
RETURNS = {
    "accelerate:Accelerator.unwrap_model": [MODEL],
    "datasets:Dataset.with_format": ["datasets:Dataset"],
    "evaluate:combine": ["evaluate:CombinedEvaluations"],
    "evaluate:load": ["evaluate:EvaluationModule"],
    "keras:models.load_model": ["keras:Model"],
    "scipy.stats:binomtest": ["scipy.stats._result_classes:BinomTestResult"],
    "transformers:AutoConfig.from_pretrained": ["transformers:PreTrainedConfig"],
    "transformers:AutoTokenizer.from_pretrained": ["transformers:PreTrainedTokenizerBase"],
    "transformers:pipeline": ["transformers:TextClassificationPipeline"],
}
# Most methods of these return one of their kind; so do indexing and arithmetic.
FLUENT = [
    MODEL,
    "numpy:ndarray",
    "pandas:DataFrame",
    "pandas:Series",
    "pathlib:Path",
    "torch:Tensor",
    "transformers:BatchEncoding",
]
ITEMS = {
    "datasets:DatasetDict": ["datasets:Dataset"],
    "pandas:DataFrame": ["pandas:Series", "pandas:DataFrame"],
    "transformers:BatchEncoding": ["torch:Tensor"],
}
# Where the keywords go that a function only passes on.
PASSED_ON = {
    "datasets:load_dataset": [
        "datasets.packaged_modules.csv.csv:CsvConfig",
        "datasets.packaged_modules.json.json:JsonConfig",
        "datasets.packaged_modules.parquet.parquet:ParquetConfig",
    ],
    "keras:Model": ["keras.src.models.functional:Functional.__init__"],
    "keras:Model.save": ["keras.saving:save_model"],
    "transformers:pipeline": [
        "transformers:TextClassificationPipeline",
        "transformers:TextClassificationPipeline._sanitize_parameters",
        "transformers:PreTrainedTokenizerBase.__call__",
    ],
    "transformers:TextClassificationPipeline.__call__": [
        "transformers:TextClassificationPipeline._sanitize_parameters"
    ],
}
# Their keywords are data: names of splits, features or columns.
DATA = ["datasets:DatasetDict", "datasets:Features", "transformers:BatchEncoding"]
# Keywords that a model's from_pretrained takes out of its **kwargs, and still has to.
PRETRAINED = {"attn_implementation", "device_map", "dtype", "subfolder"}
# Keys of a dictionary that is unpacked into a call, where the code does not show them.
UNPACKED = {
    "batch": ("input_ids", "attention_mask", "token_type_ids", "labels"),
    "options": ("data_files", "sep"),
    "scaling": ("dropout", "scaling", "is_causal"),
}


def find(name):
    """The object of a name such as "torch.optim:AdamW" or "keras:Model.save"."""
    module, _, path = name.partition(":")
    thing = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


def top(name):
    return re.split("[.:]", name)[0]


def entry(table, thing):
    """The entry of a table for this object; a library that nothing has imported cannot be meant."""
    for name, values in table.items():
        if top(name) in sys.modules and same(find(name), thing):
            return values
    return None


def same(one, other):
    return getattr(one, "__func__", one) is getattr(other, "__func__", other)


def among(names, thing):
    return any(top(name) in sys.modules and same(find(name), thing) for name in names)


@dataclass(frozen=True)
class Known:
    """A module, class, function or constant of a library; a method with its class."""

    thing: object
    owner: type | None = None

    @property
    def library(self):
        thing = self.owner or self.thing
        name = thing.__name__ if isinstance(thing, ModuleType) else None
        return top(name or getattr(thing, "__module__", None) or type(thing).__module__)

    @property
    def name(self):
        name = getattr(self.thing, "__name__", str(self.thing))
        return (
            f"{self.library}: {self.owner.__name__}.{name}"
            if self.owner
            else f"{self.library}: {name}"
        )


@dataclass(frozen=True)
class Instance:
    """An object of this class."""

    of: type


@dataclass(frozen=True)
class Ours:
    """A function or class of the file itself: its mistakes show when it runs."""

    returns: tuple = ()


@dataclass(frozen=True)
class Written:
    """A dictionary whose keys stand in the code."""

    keys: tuple


class NoSignature(Exception):
    """A callable of which Python cannot tell the parameters."""


@cache
def torch_stub(file):
    """Functions of one of torch's .pyi files, {(class or "", name): definitions}."""
    import torch

    functions = {}
    for node in ast.parse((Path(torch.__file__).parent / "_C" / file).read_text()).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for function in inside:
            if isinstance(function, ast.FunctionDef):
                key = (node.name if isinstance(node, ast.ClassDef) else "", function.name)
                functions.setdefault(key, []).append(function)
    return functions


def in_torch_stub(known):
    """torch's functions in C have no signature, but definitions in a stub file."""
    if known.library != "torch":
        return []
    name = getattr(known.thing, "__name__", "")
    if known.owner:
        owner = "TensorBase" if known.owner.__name__ == "Tensor" else known.owner.__name__
        return torch_stub("__init__.pyi").get((owner, name), [])
    if isinstance(known.thing, type):
        return torch_stub("__init__.pyi").get((name, "__init__"), [])
    return torch_stub("_VariableFunctions.pyi").get(("", name), [])


def signature(known):
    """(names of the parameters, whether it takes any keyword besides)."""
    stubs = in_torch_stub(known)
    try:
        parameters = inspect.signature(known.thing).parameters.values()
    except (TypeError, ValueError):
        if not stubs:
            raise NoSignature from None
        return {
            argument.arg
            for stub in stubs
            for argument in (*stub.args.posonlyargs, *stub.args.args, *stub.args.kwonlyargs)
        }, False
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def accepted(known):
    """Names of the keywords that a callable takes; None where any is right or is refused at once."""
    thing, owner = known.thing, known.owner
    if among(DATA, thing):
        return None
    names, any_other = signature(known)
    if not any_other:
        return names
    if known.library not in FOLLOWED:
        return None
    for name in entry(PASSED_ON, thing) or ():
        names |= signature(Known(find(name)))[0]
    if isinstance(thing, type):
        names |= inherited(thing, "__init__")
    elif owner:
        names |= inherited(owner, thing.__name__)
        if thing.__name__ == "from_pretrained":
            names |= of_from_pretrained(owner)
        elif thing.__name__ == "from_preset":
            names |= accepted(Known(owner)) or set()
    return names


def inherited(cls, method):
    """Keywords of a method and of its base classes' methods, as far as each passes others on."""
    names = set()
    for base in cls.__mro__:
        if method in vars(base):
            found, any_other = signature(Known(getattr(base, method)))
            names |= found
            for name in (entry(PASSED_ON, base) or ()) if method == "__init__" else ():
                names |= signature(Known(find(name)))[0]
            if not any_other:
                break
    return names - {"self"}


@cache
def default_config():
    from helpers.parameters import Settings
    from helpers.sources import find_model
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(find_model(Settings().model_name))


def of_from_pretrained(owner):
    """What transformers' from_pretrained takes besides its signature."""
    import transformers
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    if owner is transformers.AutoTokenizer or issubclass(owner, PreTrainedTokenizerBase):
        return signature(Known(PreTrainedTokenizerBase.from_pretrained))[0]
    config = default_config()
    names = set(config.to_dict()) | ({"num_labels"} if hasattr(config, "num_labels") else set())
    is_config = owner is transformers.AutoConfig or issubclass(owner, PreTrainedConfig)
    base = PreTrainedConfig if is_config else PreTrainedModel
    source = inspect.getsource(owner.from_pretrained) + inspect.getsource(base.from_pretrained)
    read = set(re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', source))
    return names | (PRETRAINED & read) | signature(Known(base.from_pretrained))[0]


def annotated(known):
    """Instances of the classes in the annotation of a function's result or of a property."""
    stubs = in_torch_stub(known)
    if stubs:
        import torch

        annotation, names = ast.unparse(stubs[0].returns), {**vars(torch), **sys.modules}
    else:
        function = inspect.unwrap(getattr(known.thing, "__func__", known.thing))
        annotation = getattr(function, "__annotations__", {}).get("return")
        names = getattr(function, "__globals__", {})
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, {"Self": Self, **names})
        except (NameError, AttributeError, TypeError, SyntaxError):
            return ()
    if annotation is Self or isinstance(annotation, TypeVar):
        return (Instance(known.owner),) if known.owner else ()
    if get_origin(annotation) in (Union, UnionType):
        parts = get_args(annotation)
    else:
        parts = (get_origin(annotation) or annotation,)
    skipped = (type(None), tuple, list, dict)
    return tuple(Instance(p) for p in parts if isinstance(p, type) and p not in skipped)


class Reader:
    """Reads a file's code in order and knows what each name stands for.

    A value is a tuple of what an expression may be: Known, Instance, Ours or Written; () is unknown.
    `problems` holds a line for each call with a keyword that is wrong or cannot be looked up.
    """

    def __init__(self, name, cells, scope=None):
        trees = [(cell_id, source, ast.parse(source)) for cell_id, source in cells]
        self.name = name
        self.slow = any(SLOW & {*imported(tree), *used(tree)} for _, _, tree in trees)
        self.below, self.scope = {}, ChainMap() if scope is None else scope
        self.read(trees)
        # A function may call another one that stands below it.
        self.below = {name: value for name, value in self.scope.items() if is_ours(value)}
        self.scope.clear()
        self.read(trees)

    def read(self, trees):
        self.problems = []
        for self.cell, source, tree in trees:
            self.lines, self.checked = source.splitlines(), set()
            self.run(tree.body)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and node.keywords and node not in self.checked:
                    self.report(node, "the test did not come to this call")

    def report(self, node, problem):
        where = f"{self.name}, cell {self.cell!r}" if self.cell else self.name
        line = self.lines[node.lineno - 1].strip()
        self.problems.append(f"{where}, line {node.lineno}: {line}\n  {problem}")

    def named(self, name):
        """What the table says of a name."""
        found = [n for n in NAMES.get(name, ()) if self.slow or top(n) not in SLOW]
        return tuple(Instance(find(n)) for n in found)

    def instances(self, names):
        return tuple(Instance(find(name)) for name in names)

    # Statements

    def run(self, body):
        for statement in body:
            method = getattr(self, f"run_{type(statement).__name__}", None)
            if method:
                method(statement)
            else:
                self.inside(statement)

    def inside(self, node):
        """Read all parts of a node, statements and expressions, in order."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self.run([child])
            elif isinstance(child, ast.expr):
                self.value(child)
            else:
                if isinstance(child, ast.withitem) and child.optional_vars:
                    self.bind(child.optional_vars, ())
                self.inside(child)

    def run_Import(self, node):
        for alias in node.names:
            module = self.load(node, alias.name)
            if alias.asname is None:
                module = module and (Known(sys.modules[top(alias.name)]),)
            self.scope[alias.asname or top(alias.name)] = module

    def run_ImportFrom(self, node):
        for alias in node.names:
            name = alias.asname or alias.name
            if top(node.module) == "helpers":
                self.scope[name] = helper(node.module).get(alias.name, ())
            else:
                module = self.load(node, node.module)
                self.scope[name] = self.attribute(node, module, alias.name)

    def load(self, node, name):
        try:
            return (Known(importlib.import_module(name)),)
        except ImportError as error:
            self.report(node, str(error))
            return ()

    def run_Assign(self, node):
        value = self.value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for part, source in zip(target.elts, node.value.elts, strict=False):
                    self.bind(part, self.value(source))
            else:
                self.bind(target, value)

    def run_AnnAssign(self, node):
        self.bind(node.target, self.value(node.value) if node.value else ())

    def run_AugAssign(self, node):
        old, new = self.value(node.target), self.value(node.value)
        self.bind(node.target, merged(old, new) or old or new)

    def bind(self, target, value):
        if isinstance(target, ast.Name):
            self.scope[target.id] = value
        elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            old, new = self.value(target.value), (Written((target.slice.value,)),)
            if isinstance(target.value, ast.Name) and merged(old, new):
                self.scope[target.value.id] = merged(old, new)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self.bind(part, ())
        elif isinstance(target, ast.Starred):
            self.bind(target.value, ())
        else:
            self.value(target)

    def run_For(self, node):
        self.value(node.iter)
        self.bind(node.target, ())
        self.run(node.body + node.orelse)

    def run_FunctionDef(self, node):
        for expression in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if expression:
                self.value(expression)
        outer, self.scope = self.scope, self.scope.new_child()
        self.parameters(node.args)
        self.run(node.body)
        returns = ()
        for part in ast.walk(node):
            if isinstance(part, ast.Return) and part.value and not returns:
                returns = self.value(part.value)
        self.scope = outer
        self.scope[node.name] = (Ours(returns),)

    def parameters(self, arguments):
        for argument in ast.walk(arguments):
            if isinstance(argument, ast.arg) and argument.arg != "self":
                self.scope[argument.arg] = ()

    def run_ClassDef(self, node):
        for expression in (*node.decorator_list, *(k.value for k in node.keywords)):
            self.value(expression)
        bases = tuple(b for base in node.bases for b in self.value(base) if is_class(b))
        outer, self.scope = self.scope, self.scope.new_child()
        instances = tuple(Instance(base.thing) for base in bases)
        self.scope.update({"super": (Ours(instances),), "self": instances})
        self.run(node.body)
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        self.scope = outer
        for name, method in methods.items():
            for base in bases:
                if name.startswith("on_") and not hasattr(base.thing, name):
                    self.report(method, f"{base.name} calls no method {name!r}")
        self.scope[node.name] = bases if bases and "__init__" not in methods else (Ours(instances),)

    # Expressions

    def value(self, node):
        method = getattr(self, f"value_{type(node).__name__}", None)
        if method:
            return method(node)
        self.inside(node)
        return ()

    def value_Constant(self, node):
        return (Instance(type(node.value)),)

    def value_JoinedStr(self, node):
        self.inside(node)
        return (Instance(str),)

    def value_Name(self, node):
        if node.id in self.scope:
            return self.scope[node.id] or self.named(node.id)
        if node.id in self.below:
            return self.below[node.id]
        if hasattr(builtins, node.id):
            return (Known(getattr(builtins, node.id)),)
        return self.named(node.id)

    def value_NamedExpr(self, node):
        value = self.value(node.value)
        self.bind(node.target, value)
        return value

    def value_Dict(self, node):
        keys = []
        for key, value in zip(node.keys, node.values, strict=True):
            found = self.value(value)
            if key is not None:
                self.value(key)
                keys.append(key.value if isinstance(key, ast.Constant) else None)
            else:
                keys += found[0].keys if found and isinstance(found[0], Written) else [None]
        return (Instance(dict),) if None in keys else (Written(tuple(keys)),)

    def value_BinOp(self, node):
        left, right = self.value(node.left), self.value(node.right)
        fluent = [v for v in left + right if isinstance(v, Instance) and among(FLUENT, v.of)]
        return merged(left, right) or tuple(fluent)

    def value_Compare(self, node):
        self.inside(node)
        left = self.value(node.left)
        return tuple(v for v in left if isinstance(v, Instance) and among(FLUENT, v.of))

    def value_UnaryOp(self, node):
        return self.value(node.operand)

    def value_Subscript(self, node):
        self.value(node.slice)
        found = ()
        for one in self.value(node.value):
            if isinstance(one, Instance):
                items = entry(ITEMS, one.of)
                found += self.instances(items) if items else ()
                found += (one,) if not items and among(FLUENT, one.of) else ()
        return found

    def value_IfExp(self, node):
        self.value(node.test)
        return self.value(node.body) + self.value(node.orelse)

    def value_Lambda(self, node):
        outer, self.scope = self.scope, self.scope.new_child()
        self.parameters(node.args)
        returns = self.value(node.body)
        self.scope = outer
        return (Ours(returns),)

    def comprehension(self, node):
        outer, self.scope = self.scope, self.scope.new_child()
        for part in node.generators:
            self.value(part.iter)
            self.bind(part.target, ())
            for condition in part.ifs:
                self.value(condition)
        for name in ("key", "value", "elt"):
            if hasattr(node, name):
                self.value(getattr(node, name))
        self.scope = outer
        return ()

    value_ListComp = value_SetComp = value_DictComp = value_GeneratorExp = comprehension

    def value_Attribute(self, node):
        found = self.attribute(node, self.value(node.value), node.attr)
        if not found and isinstance(node.value, ast.Name):
            found = self.attribute(node, self.named(node.value.id), node.attr)
        return found

    def attribute(self, node, values, name):
        found, known = (), False
        for one in values:
            if isinstance(one, Known):
                known = True
                found += self.of_known(one, name)
            elif isinstance(one, Instance):
                found += self.of_instance(one, name)
        if not found and known:
            self.report(node, f"{values[0].name} has no {name!r}")
        return found or self.named(name)

    def of_known(self, one, name):
        if not hasattr(one.thing, name):
            try:
                return (Known(importlib.import_module(f"{one.thing.__name__}.{name}")),)
            except (ImportError, AttributeError):
                return ()
        thing = getattr(one.thing, name)
        is_method = isinstance(one.thing, type) and callable(thing) and not isinstance(thing, type)
        return (Known(thing, one.thing if is_method else None),)

    def of_instance(self, one, name):
        if not hasattr(one.of, name):
            return ()
        thing = getattr(one.of, name)
        if isinstance(thing, property):
            found = annotated(Known(thing.fget, one.of))
            return found or ((one,) if among(FLUENT, one.of) else ())
        if isinstance(thing, type):
            return (Instance(thing),)
        return (Known(thing, one.of),) if callable(thing) else ()

    def value_Call(self, node):
        functions = self.value(node.func)
        for argument in node.args:
            self.value(argument)
        names, unpacked = [], True
        for keyword in node.keywords:
            value = self.value(keyword.value)
            if keyword.arg:
                names.append(keyword.arg)
            elif (keys := self.keys(keyword.value, value)) is not None:
                names += keys
            else:
                unpacked = False
        functions = tuple(self.called(one) for one in functions)
        if node.keywords and node not in self.checked:
            self.checked.add(node)
            self.check(node, functions, names, unpacked)
        if functions and functions[0] == Known(dict):
            return (Written(tuple(names)),) if unpacked and not node.args else ()
        return tuple(dict.fromkeys(v for one in functions for v in self.result(one)))

    def keys(self, node, value):
        """Keys of a dictionary that is unpacked into a call, or None."""
        name = getattr(node, "id", getattr(node, "attr", None))
        for one in value:
            if isinstance(one, Written):
                return one.keys
            if isinstance(one, Instance) and one.of.__name__ == "BatchEncoding":
                name = "batch"
        return UNPACKED.get((name or "").rpartition("_")[2])  # also `first_batch`

    def called(self, one):
        """What runs when this is called: of an object, its class's method."""
        if not isinstance(one, Instance):
            return one
        for method in ("forward", "call", "__call__"):
            if hasattr(one.of, method) and one.of.__module__ != "builtins":
                return Known(getattr(one.of, method), one.of)
        return one

    def check(self, node, functions, names, unpacked):
        if is_ours(functions):
            return
        functions = [one for one in functions if isinstance(one, Known)]
        if any(one.library in sys.stdlib_module_names for one in functions):
            return
        if not functions:
            self.report(node, "the test cannot tell what is called: extend NAMES or RETURNS")
            return
        if not unpacked:
            self.report(node, "the test cannot tell what ** unpacks: extend UNPACKED")
        problems = []
        for one in functions:
            try:
                allowed = accepted(one)
            except NoSignature:
                if one.library in FOLLOWED:
                    problems.append(f"{one.name} has no signature to look in")
                    continue
                return
            wrong = set() if allowed is None else set(names) - allowed
            if not wrong:
                return
            problems.append(f"{one.name} takes no keyword {', '.join(map(repr, sorted(wrong)))}")
        self.report(node, "; ".join(problems))

    def result(self, one):
        if isinstance(one, Ours):
            return one.returns
        if not isinstance(one, Known):
            return ()
        returns = entry(RETURNS, one.thing)
        if returns:
            return self.instances(returns)
        if isinstance(one.thing, type):
            return (Instance(one.thing),)
        name = getattr(one.thing, "__name__", "")
        if name in ("from_pretrained", "from_config") and one.owner.__name__.startswith(
            "AutoModel"
        ):
            return self.instances([MODEL])
        if name in ("from_pretrained", "from_preset"):
            return (Instance(one.owner),)
        found = annotated(one)
        if not found and one.owner and among(FLUENT, one.owner):
            found = (Instance(one.owner),)
        return found


def is_ours(value):
    return any(isinstance(one, Ours) for one in value)


def is_class(value):
    return isinstance(value, Known) and isinstance(value.thing, type)


def merged(one, other):
    """The dictionary of two whose keys stand in the code."""
    values = one + other
    if one and other and all(isinstance(value, Written) for value in values):
        return (Written(tuple(dict.fromkeys(key for value in values for key in value.keys))),)
    return ()


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (top(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield top(node.module)


def used(tree):
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


SCOPES = {}


def helper(module):
    """Names of a module of helpers; not all of them yet where two modules import each other."""
    if module not in SCOPES:
        SCOPES[module] = ChainMap()
        path = ROOT.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        Reader(path.name, cells(path), SCOPES[module])
    return SCOPES[module]


def cells(path):
    """(id, source) of what a chapter or a module runs, without IPython's magics."""
    if path.suffix == ".py":
        return [("", path.read_text(encoding="utf-8"))]
    return [
        (cell.id, re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", [*all_chapters(), *HELPERS], ids=lambda path: path.stem)
def test_every_keyword_is_one_of_the_installed_library(path):
    problems = Reader(path.name, cells(path)).problems
    assert not problems, "\n".join(["", *problems])


def problems(source):
    """What is found in a made-up cell, after one that imports what chapters import."""
    first = textwrap.dedent("""
        import torch
        from datasets import load_dataset
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_scheduler
        from transformers import Trainer, TrainerCallback, TrainingArguments, pipeline
        """)
    return Reader("00_made_up", [("imports", first), ("made-up", textwrap.dedent(source))]).problems


@pytest.mark.parametrize(
    ("source", "keyword"),
    [
        ('TrainingArguments(evaluation_strategy="epoch")', "evaluation_strategy"),
        ("TrainingArguments(warmup_ratio=0.1)", "warmup_ratio"),
        ('options = {"no_cuda": True}\nTrainingArguments("x", **options)', "no_cuda"),
        ('o = dict(seed=1)\no["fp17"] = True\nTrainingArguments("x", **o)', "fp17"),
        ("trainer = Trainer(model, tokenizer=tokenizer)", "tokenizer"),
        ("trainer.train(resume=True)", "resume"),
        ("dataset.map(tokenize, batchd=True)", "batchd"),
        ('load_dataset("csv")["train"].shuffle(sead=1)', "sead"),
        ('load_dataset("csv", seperator=";")', "seperator"),
        ("torch.nn.utils.clip_grad_norm_(p, max_nrm=1)", "max_nrm"),
        ("torch.argmax(x, dimension=1)", "dimension"),
        ("torch.optim.AdamW(p, learning_rate=1)", "learning_rate"),
        ("def f(logits):\n    return logits.softmax(axis=-1, dims=1)", "dims"),
        ("torch.utils.data.DataLoader(x, batchsize=1)", "batchsize"),
        ('AutoModelForSequenceClassification.from_pretrained("x", num_label=2)', "num_label"),
        ('AutoModelForSequenceClassification.from_pretrained("x", hidden_drop=0)', "hidden_drop"),
        ('AutoModelForSequenceClassification.from_pretrained("x", torch_dtype=1)', "torch_dtype"),
        ('AutoTokenizer.from_pretrained("x", num_labels=2)', "num_labels"),
        ('tokenizer("a", truncate=True)', "truncate"),
        ('AutoTokenizer.from_pretrained("x")("a", pad=True)', "pad"),
        ("model(input_id=x)", "input_id"),
        ('pipeline("text-classification", model="x", topk=2)', "topk"),
        ('pipeline("text-classification")("a", topk=2)', "topk"),
        ("get_scheduler(name='linear', optimiser=o)", "optimiser"),
        ("import evaluate\nm = evaluate.load('x')\nm.add_batch(prediction=1)", "prediction"),
        ("from accelerate import Accelerator\nAccelerator(precision='no')", "precision"),
        ("class C(TrainerCallback):\n    def on_evaluation(self): ...", "on_evaluation"),
        ("[dataset.map(f, batchd=True) for f in g]", "batchd"),
        ("lambda: dataset.map(f, batchd=True)", "batchd"),
        ("torch.nn.utils.clip_grads(p)", "clip_grads"),
    ],
)
def test_a_wrong_keyword_is_found(source, keyword):
    found = problems(source)
    assert len(found) == 1, found
    assert found[0].startswith("00_made_up, cell 'made-up', line ")
    assert repr(keyword) in found[0].splitlines()[1]


@pytest.mark.parametrize(
    ("source", "keyword"),
    [
        ("keras.optimizers.AdamW(weight_decay=0.1, lr=1)", "lr"),
        ("keras.layers.Dense(2, activation=None, drop=1)", "drop"),
        ("keras.Model(inputs=x, output=y)", "output"),
        ("m = keras.Model(x, y)\nm.compile(optimizer=o, losses=1)", "losses"),
        ("m = keras.Model(x, y)\nm.fit(x, epochs=1, validation=y)", "validation"),
        (
            "def f(model):\n    return model.evaluate(x, verbose=0, return_dicts=True)",
            "return_dicts",
        ),
        ("def f(model):\n    return model.predict(x, verbos=0)", "verbos"),
        ("keras.losses.SparseCategoricalCrossentropy(from_logit=True)", "from_logit"),
        ("BB.from_preset('x', load_weight=True)", "load_weight"),
        ("b = BB.from_preset('x', dropout=0.1)\nb.summary(width=3)", "width"),
        ("c = TC.from_preset('x', num_classes=2)\nc.compile(optimizer='adam', lr=1)", "lr"),
        ("tf.data.Dataset.from_tensor_slices(x).batch(2, drop_last=True)", "drop_last"),
        ("class C(keras.callbacks.Callback):\n    def on_epoch_stop(self): ...", "on_epoch_stop"),
    ],
)
def test_a_wrong_keyword_of_keras_is_found(source, keyword):
    sources = [source for path in [*all_chapters(), *HELPERS] for _, source in cells(path)]
    if not any(SLOW & set(imported(ast.parse(source))) for source in sources):
        pytest.skip("nothing uses Keras, and importing it takes seconds")
    libraries = """
        import keras
        import tensorflow as tf
        from keras_hub.models import BertBackbone as BB, BertTextClassifier as TC
        """
    found = problems(textwrap.dedent(libraries) + source)
    assert len(found) == 1, found
    assert repr(keyword) in found[0].splitlines()[1]


@pytest.mark.parametrize(
    "source",
    [
        "unheard_of(x=1)",
        "unheard.of(x=1)",
        "torch.zeros(1).unheard_of()(x=1)",
        "model(**unheard)",
    ],
)
def test_a_call_that_cannot_be_looked_up_is_not_passed_over(source):
    assert len(problems(source)) == 1
    assert "the test cannot tell what" in problems(source)[0]


def test_what_is_right_is_let_through():
    assert not problems("""
        options = {"eval_strategy": "epoch", "seed": 1}
        arguments = TrainingArguments("x", warmup_steps=0.1, **options)
        trainer = Trainer(model=model, args=arguments, processing_class=tokenizer)
        trainer.train(resume_from_checkpoint=False)
        trainer.predict(test_dataset=rows).predictions.argmax(axis=-1)
        load_dataset("csv", data_files="x", sep=";")["train"].train_test_split(test_size=1, seed=2)
        model = AutoModelForSequenceClassification.from_pretrained(
            "x", num_labels=2, dtype=torch.float32, attention_probs_dropout_prob=0.1
        )
        outputs = model(**tokenizer("a", return_tensors="pt", padding=True))
        outputs.logits.softmax(dim=-1).max(dim=-1)
        print(sorted([2, 1], reverse=True), sep="")
        """)


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
    folder, run, _ = smoke_run
    assert run.returncode == 0, run.stderr
    found = [line for path in sorted(folder.glob("*.ipynb")) for line in notices(path)]
    assert not found, "\n".join(["", *found])


def test_a_deprecated_call_is_found(tmp_path, monkeypatch):
    """Also after the libraries were imported, which could set the warnings back."""
    sources = [
        parameters_cell(),
        """
        from helpers.parameters import read_parameters
        settings = read_parameters(globals())
        """,
        """
        import warnings
        import datasets, evaluate, matplotlib.pyplot, pandas, sklearn, torch, transformers
        from helpers.sources import find_model
        AutoModel = transformers.AutoModelForSequenceClassification
        AutoModel.from_pretrained(find_model(settings.model_name), torch_dtype=torch.float32)
        """,
        """
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            for module in ("__main__", "transformers.trainer", "torch.optim"):
                try:
                    warnings.warn_explicit("old", category, "file", 1, module=module)
                except category:
                    continue
                raise AssertionError(f"{category} of {module} passed")
        """,
        'warnings.warn("this is old", FutureWarning)',
    ]
    tags = {"tags": ["parameters"]}
    codes = [new_code_cell(textwrap.dedent(source).strip()) for source in sources]
    codes[0].metadata = tags
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "01_old.ipynb"
    nbformat.write(new_notebook(cells=codes, metadata={"kernelspec": kernelspec}), path)
    for name, value in STRICT.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    with pytest.raises(ChapterError, match=r"FutureWarning: this is old"):
        run_chapters([path], {**SMOKE, "run_dir": str(run)}, progress=False)
    assert any("torch_dtype" in line for line in notices(run / path.name))
