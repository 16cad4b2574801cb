"""Run chapters headless through papermill, check a data set, or label a file: the command `finetuning`."""

import argparse
import logging
import os
import re
import shlex
import sys
import tempfile
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import nbformat
import pandas as pd
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from suite.chapters import all_chapters, facts, languages, maker, plan
from suite.check import check_dataset
from suite.errors import ChapterError, UserError
from suite.runs import is_made_by, locked, made_by, read_metrics, run_folder, write_json
from suite.settings import (
    PARAMETERS,
    RENAMED,
    SIZES,
    ParameterError,
    Settings,
    all_sizes,
    fit_sizes,
    named_as_now,
)
from suite.start import check_values

# What torch and NumPy read, the two that TensorFlow reads, and that of the tokenizers.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
THREADS += ("RAYON_NUM_THREADS",)
# Of parameters that a chapter's own cells do not use, papermill says that they are unknown.
logging.getLogger("papermill").setLevel(logging.ERROR)
pd.set_option("display.unicode.east_asian_width", True)  # Chinese letters take two columns
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def run_chapters(chapters, parameters, progress=True, side_by_side=False, live=False):
    """Run the chapters and return {chapter: figures}, with `seconds` in each.

    parameters: name -> value, for every chapter; refused before the first one starts
    side_by_side: run two at the same time where they do not wait for one another, each with its share
        of the cores, and those that measure speed after them; if not, all one after another
    live: show the chapters' own progress bars while they run

    Executed notebooks and `metrics.json` go to `run_dir`; a notebook is there even if its chapter
    failed. Figures of chapters that do not run now stay in `metrics.json`. A chapter that fails
    ends the run; one that runs beside it goes on until this process ends.

    Raises ParameterError or SourceError before anything runs, ChapterError when a chapter fails.
    """
    settings = check_values(parameters)
    lowered = {name: getattr(settings, name) for name in SIZES if name not in parameters}
    lowered = {name: rows for name, rows in lowered.items() if rows != PARAMETERS[name].default}
    if lowered:
        said = ", ".join(f"{name} {rows}" for name, rows in lowered.items())
        print(f"The data set is smaller than the usual sizes: {said}.")
    parameters = {**parameters, **lowered}
    rows, alone = plan(chapters, 2) if side_by_side else ([], chapters)
    done = {}

    def run(row):
        return {path.stem: _run_chapter(path, settings, parameters, progress, live) for path in row}

    # What a kernel leaves behind when it is killed at its end goes with this folder. After a failure
    # the chapter of the other row may still write there.
    leftovers = tempfile.TemporaryDirectory(prefix="chapters-", ignore_cleanup_errors=True)
    with leftovers as temporary, patch.dict(os.environ, TMPDIR=temporary):
        share = patch.dict(os.environ, _share_of_cores(len(rows)))
        with share, ThreadPool(max(1, len(rows))) as pool:
            for figures in pool.imap_unordered(run, rows):
                done |= figures
        done |= run(alone)
    return {path.stem: done[path.stem] for path in chapters}


def table(metrics, seconds=None):
    """Return the table of a run as text: chapter, seconds, peak memory, key figures.

    seconds: those of the whole run; None means that the chapters ran one after another
    """
    rows = {}
    for chapter, figures in metrics.items():
        figures = {name: value for name, value in figures.items() if name != "classes"}
        columns = {"seconds": figures.pop("seconds"), "MiB": figures.pop("peak_memory_mib", "-")}
        keys = [f"{name} {_shown(value)}" for name, value in figures.items()]
        rows[chapter] = {**columns, "key figures": ", ".join(keys)}
    total = seconds or sum(row["seconds"] for row in rows.values())
    rows["all"] = {"seconds": round(total, 1), "MiB": "", "key figures": ""}
    longest = max(len(row["key figures"]) for row in rows.values())
    left = {"key figures": lambda text: f"  {text:<{longest}}"}
    return pd.DataFrame.from_dict(rows, orient="index").to_string(formatters=left)


def _shown(value):
    """Return a figure as text; a small one, such as a learning rate, with its first digits."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if round(value, 2) or not value else f"{value:.2g}"


def class_report(metrics):
    """Return the report of chapter 05 on each class as text; "" if that chapter did not run."""
    classes = metrics.get("05_evaluation", {}).get("classes", [])
    if not classes:
        return ""
    columns = ["class", "precision", "recall", "F1", "rows"]
    scores = pd.DataFrame(classes, columns=columns).set_index("class").rename_axis(None)
    return "\n" + scores.to_string(float_format="{:.3f}".format, max_rows=60)


@contextmanager
def kernel_config():
    """Yield a configuration that lets the kernel speak over Unix sockets, where there are any.

    They need no network interface, not even the loopback, and open no port to other users.
    """
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        sockets = {"transport": "ipc", "ip": str(Path(folder, "socket"))}
        sockets["connection_file"] = str(Path(folder, "connection.json"))
        yield Config({"KernelManager": sockets if os.name == "posix" else {}})


def _share_of_cores(rows):
    """Return the variables that give each of several rows its share of the cores."""
    if rows < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return dict.fromkeys(THREADS, str(max(1, cores // rows)))


def _run_chapter(chapter, settings, parameters, progress, live):
    """Run one chapter; return its figures."""
    folder = run_folder(settings)
    output, path = folder / chapter.name, folder / "metrics.json"
    for name in facts(chapter)["needs"] if progress else ():
        if not is_made_by(folder / name, made_by(settings, name)):
            print(f"{chapter.stem} needs what {maker(name).stem} makes: that comes first.")
    with locked(output):
        with locked(path):
            metrics = read_metrics(path)
            metrics.pop(chapter.stem, None)
            write_json(path, metrics)
        start = perf_counter()
        _execute(chapter, output, parameters, progress, live)
        with locked(path):
            metrics = read_metrics(path)
            metrics.setdefault(chapter.stem, {})["seconds"] = round(perf_counter() - start, 1)
            write_json(path, dict(sorted(metrics.items())))
    return metrics[chapter.stem]


def _execute(chapter, output, parameters, progress, live):
    try:
        with kernel_config() as config:
            papermill.execute_notebook(  # braces in a path would be a template
                *(str(path).replace("{", "{{").replace("}", "}}") for path in (chapter, output)),
                parameters=parameters,
                progress_bar={"desc": chapter.stem, "file": sys.stderr} if progress else False,
                kernel_name="python3",
                config=config,
                store_widget_state=False,
                coalesce_streams=True,
                stderr_file=sys.stderr if live else None,
                shutdown_kernel="immediate",  # with torch loaded, Python takes seconds to end
            )
    except PapermillExecutionError as error:
        raise ChapterError(_where(chapter, output, error)) from None
    except DeadKernelError:
        started = [c for c in _code(output) if c.metadata.papermill.start_time]
        raise ChapterError(
            f"{chapter.name}, cell {started[-1].id!r}: the kernel was killed, most often because memory ran"
            " out; free some, run without --side-by-side, or take a smaller batch_size or max_length."
            f" Up to there: {output}"
        ) from None


def _code(output):
    return [c for c in nbformat.read(output, as_version=4).cells if c.cell_type == "code"]


def _where(chapter, output, error):
    """One line for the failed cell: file, cell number and id, source line, error."""
    cell = next(c for c in _code(output) if c.source == error.source)
    trace = ANSI.sub("", "\n".join(error.traceback))
    where = f"{chapter.name}, cell [{error.exec_count}] {cell.id!r}"
    numbers = re.findall(rf"Cell In\s?\[{error.exec_count}\], line (\d+)", trace)
    if numbers:  # errors of our own come as one line, without a traceback
        where += f", line {numbers[-1]}: {error.source.splitlines()[int(numbers[-1]) - 1].strip()}"
    return f"{where}\n  {error.ename}: {error.evalue}\n  The notebook up to there: {output}"


def _read_arguments(arguments):
    parser = argparse.ArgumentParser(prog="finetuning", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run chapters and print a table of results")
    check = commands.add_parser("check", help="look through the data set, and run no chapter")
    for command in (run, check):
        pair = {"metavar": "NAME=VALUE", "action": "append", "default": []}
        command.add_argument("-p", **pair, help="set one parameter; NAME VALUE is taken too")
        command.add_argument("-f", metavar="FILE", help="YAML file with parameters")
    run.add_argument("chapters", nargs="*", help="such as 04 or 04_training_loop; none means all")
    run.add_argument(
        "--name", help="results go to runs/NAME (default: the file's name, or default)"
    )
    run.add_argument(
        "--language", default="en", choices=["en", *languages()], help="of the chapters"
    )
    run.add_argument("--side-by-side", action="store_true", help="run two chapters at a time")
    predict = commands.add_parser("predict", help="label the rows of a file with a trained model")
    predict.add_argument("model_folder", help="such as runs/default/model")
    predict.add_argument("file", help="CSV, TSV, JSON, JSON Lines, Parquet; - for lines on stdin")
    predict.add_argument("--text-column", default="text", help="column that holds the text")
    predict.add_argument("--encoding", default="auto", help="such as gb18030, as in training")
    predict.add_argument(
        "-o", dest="output", default="-", help="CSV, TSV, JSON Lines or Parquet; - for stdout"
    )
    predict.add_argument("--all", dest="every", action="store_true", help="all probabilities too")
    predict.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    return parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))


def _joined(arguments):
    """Write `-p NAME VALUE` as `-p NAME=VALUE`, so that a value may begin with a minus."""
    joined, rest = [], iter(map(str, arguments))
    for word in rest:
        joined.append(word)
        if word == "-p" and (pair := next(rest, None)) is not None:
            value = None if "=" in pair else next(rest, None)
            joined.append(pair if value is None else f"{pair}={value}")
    return joined


def _read_parameters(arguments):
    values = _read_yaml(Path(arguments.f)) if arguments.f else {}
    name = getattr(arguments, "name", None)
    if name and (Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts):
        raise ParameterError(
            f"--name is {name!r}, which leaves runs/; for another place give run_dir"
        )
    if name:
        values["run_dir"] = f"runs/{name}"
    else:
        values.setdefault("run_dir", f"runs/{Path(arguments.f).stem if arguments.f else 'default'}")
    return named_as_now(values) | read_pairs(arguments.p)


def read_pairs(pairs):
    """Return {name: value} of words such as "num_train=200"; ParameterError if one is no such word."""
    values = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise ParameterError(f"-p {pair} gives no value; write -p {pair}=VALUE")
        values[name] = _value(name, text)
    return named_as_now(values)


def _value(name, text):
    """Return what a word stands for: the word itself for a parameter that is text."""
    wanted = getattr(PARAMETERS.get(RENAMED.get(name, name)), "type", str)
    if wanted is bool:
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)
    for kind in (int, float) if wanted is not str else ():
        with suppress(ValueError):
            return kind(text)
    return text


def _read_yaml(file):
    """Return {name: value} of a YAML file, each word as it is spelled.

    YAML itself reads `no` as False, `0101` as 65, `1:30` as 90 and `1e-4` as text.
    """
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ParameterError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, yaml.MappingNode):
        raise ParameterError(f"{file} must hold lines of the form 'name: value'")
    values = {}
    for key, word in tree.value:
        name = str(key.value)
        if name in values or not isinstance(word, yaml.ScalarNode):
            fault = "stands there twice" if name in values else "holds more than one value"
            raise ParameterError(f"{file}, line {key.start_mark.line + 1}: {name!r} {fault}")
        values[name] = _value(name, word.value)
    return values


def _choose(names, language="en"):
    chapters, there = [], all_chapters(language)
    for name in names:
        start = f"{int(name):02}_" if name.isdecimal() else Path(name).stem
        found = [chapter for chapter in there if chapter.stem.startswith(start)]
        if not found:
            known = ", ".join(chapter.stem for chapter in there)
            raise ChapterError(f"no chapter {name!r}; there are {known}")
        chapters += found
    return chapters or there


def _command(*words):
    """Return a line for the shell that calls this program as it was called."""
    program = [sys.argv[0]] if Path(sys.argv[0]).name == "finetuning" else ["python", "-m", "suite"]
    return shlex.join([*program, *map(str, words)])


def _stopped(parameters):
    """Say what the same command does after Ctrl-C."""
    folder = run_folder(Settings(run_dir=parameters["run_dir"]))
    if any(folder.glob("checkpoints/*/*/whole.json")):
        return "Stopped. The same command goes on from the last checkpoint."
    return "Stopped before the first checkpoint of a training. The same command starts again."


def _predict(arguments):
    from suite.predict import predict_file  # heavy

    options = {name: value for name, value in vars(arguments).items() if name != "command"}
    rows, blank, seconds = predict_file(**options)
    said = f"{rows} rows in {seconds:.1f} s, {rows / seconds:.1f} texts a second"
    print(f"{said}, {blank} blank", file=sys.stderr)


def _check(arguments):
    parameters = _read_parameters(arguments)
    settings = check_values(parameters, with_rows=False)
    print(report := check_dataset(settings))
    fitting = fit_sizes(settings, all_sizes(report.splits["usable"]), given=parameters)
    said = ", ".join(f"{name} {getattr(fitting, name)}" for name in SIZES)
    words = ["--name", "mine"] if parameters["run_dir"] == Settings().run_dir else []
    words += ["-f", arguments.f] if arguments.f else []
    words += [word for pair in arguments.p for word in ("-p", pair)]
    print(f"\nto train on these rows ({said}):\n{_command('run', *words)}")


def _run(arguments):
    parameters, start = _read_parameters(arguments), perf_counter()
    chapters = _choose(arguments.chapters, arguments.language)
    try:
        metrics = run_chapters(chapters, parameters, side_by_side=arguments.side_by_side)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped(parameters)) from None
    print(table(metrics, perf_counter() - start))
    print(class_report(metrics))
    folder = run_folder(Settings(run_dir=parameters["run_dir"]))
    print(f"\nNotebooks, model and metrics.json: {folder}")
    if (folder / "model" / "config.json").is_file():
        words = ["new.csv", "-o", "answers.csv"]
        for name in ("text_column", "encoding"):
            if name in parameters:
                words += [f"--{name.replace('_', '-')}", parameters[name]]
        print(f"To label a file: {_command('predict', folder / 'model', *words)}")


def main(arguments=None):
    """Command line. Returns the exit status: 0, or 1 or 130 (Ctrl-C) after one message on stderr."""
    arguments = _read_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may lack letters of a class name
    try:
        {"run": _run, "check": _check, "predict": _predict}[arguments.command](arguments)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(str(stop) or "Stopped. Nothing was written.", file=sys.stderr)
        return 130
    return 0
