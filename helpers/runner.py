"""Run chapters headless through papermill: `python -m helpers.runner --help`."""

import argparse
import ast
import os
import re
import sys
import tempfile
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from time import perf_counter

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from helpers.errors import UserError
from helpers.parameters import ParameterError, all_sizes, check_enough_rows, check_values
from helpers.runs import locked, read_metrics, run_folder, write_json

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
# Each row runs in this order, so that 05 to 07 find the models of 04 and 06. The chapters in no row
# measure speed, and run when the rows have ended.
SIDE_BY_SIDE = (("04", "05", "10", "02", "03", "01"), ("06", "07"))
# What torch and NumPy read, and the two that TensorFlow reads.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
# Text before a carriage return is overwritten on a screen; a file would show every state of a bar.
OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ChapterError(UserError):
    """A chapter that failed; the message says where and why."""


def all_chapters():
    """Return the paths of all chapters, in the order in which they are read."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def run_chapters(chapters, parameters, progress=True, side_by_side=False):
    """Run the chapters and return {chapter: figures}, with `seconds` in each.

    parameters: name -> value, for every chapter; refused before the first one starts
    side_by_side: run the rows of `SIDE_BY_SIDE` at the same time, each with its share of the cores,
    and the other chapters after them; if not, all one after another

    Executed notebooks and `metrics.json` go to `run_dir`; a notebook is there even if its chapter
    failed. Figures of chapters that do not run now stay in `metrics.json`. A chapter that fails
    ends the run; one that runs beside it goes on until this process ends.

    Raises ParameterError or SourceError before anything runs, ChapterError when a chapter fails.
    """
    folder = run_folder(check_values(parameters))
    by_number = {path.stem[:2]: path for path in chapters}
    rows = [[by_number[n] for n in row if n in by_number] for row in SIDE_BY_SIDE]
    rows = [row for row in rows if row and side_by_side]
    alone = [path for path in chapters if not any(path in row for row in rows)]
    done = {}

    def run(row):
        return {path.stem: _run_chapter(path, folder, parameters, progress) for path in row}

    # What a kernel leaves behind when it is killed at its end goes with this folder. After a failure
    # the chapter of the other row may still write there.
    leftovers = tempfile.TemporaryDirectory(prefix="chapters-", ignore_cleanup_errors=True)
    with leftovers as temporary, _environment(TMPDIR=temporary):
        with _environment(**_share_of_cores(len(rows))), ThreadPool(max(1, len(rows))) as pool:
            for figures in pool.imap_unordered(run, rows):
                done |= figures
        done |= run(alone)
    return {path.stem: done[path.stem] for path in chapters}


def table(metrics, seconds=None):
    """Return the table of a run as text: chapter, seconds, peak memory, key figures.

    seconds: those of the whole run; None means that the chapters ran one after another
    """
    if seconds is None:
        seconds = sum(figures["seconds"] for figures in metrics.values())
    lines = [f"{'chapter':<26}{'seconds':>9}{'peak MiB':>10}  key figures"]
    for chapter, figures in metrics.items():
        keys = {
            name: value
            for name, value in figures.items()
            if name not in ("seconds", "peak_memory_mib", "classes")
        }
        text = ", ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in keys.items()
        )
        lines.append(
            f"{chapter:<26}{figures['seconds']:>9.1f}{figures.get('peak_memory_mib', '-'):>10}  {text}"
        )
    lines.append(f"{'all':<26}{seconds:>9.1f}")
    return "\n".join(lines)


def class_report(metrics):
    """Return the report of chapter 05 on each class as text; "" if that chapter did not run."""
    classes = metrics.get("05_evaluation", {}).get("classes", [])
    width = max((len(name) for name, *_ in classes), default=0) + 2
    lines = [f"\n{'class':<{max(width, 7)}}precision  recall      F1    rows"] if classes else []
    for name, precision, recall, f1, rows in classes:
        lines.append(f"{name:<{max(width, 7)}}{precision:>9.3f}{recall:>8.3f}{f1:>8.3f}{rows:>8}")
    return "\n".join(lines)


@contextmanager
def kernel_config():
    """Yield a configuration that lets the kernel speak over Unix sockets, where there are any.

    They need no network interface, not even the loopback, and open no port to other users.
    """
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        sockets = {"transport": "ipc", "ip": str(Path(folder, "socket"))}
        sockets["connection_file"] = str(Path(folder, "connection.json"))
        yield Config({"KernelManager": sockets if os.name == "posix" else {}})


def join_streams(notebook):
    """Make one text of what a cell printed piece by piece, without what later pieces overwrote."""
    for cell in notebook.cells:
        kept = {}
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name in kept:
                kept[output.name].text += output.text
            else:
                kept[output.get("name", len(kept))] = output
        for output in kept.values():
            if output.output_type == "stream":
                output.text = OVERWRITTEN.sub("", output.text)
        if cell.cell_type == "code":
            cell.outputs = list(kept.values())
    return notebook


@contextmanager
def _environment(**variables):
    """Set variables of the environment for the processes that start while the block runs."""
    old = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _share_of_cores(rows):
    """Return the variables that give each of several rows its share of the cores."""
    if rows < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return dict.fromkeys(THREADS, str(max(1, cores // rows)))


def _run_chapter(chapter, folder, parameters, progress):
    """Run one chapter; return its figures."""
    output, path = folder / chapter.name, folder / "metrics.json"
    with locked(output):
        with locked(path):
            metrics = read_metrics(path)
            metrics.pop(chapter.stem, None)
            write_json(path, metrics)
        start = perf_counter()
        _execute(chapter, output, parameters, progress)
        with locked(path):
            metrics = read_metrics(path)
            metrics.setdefault(chapter.stem, {})["seconds"] = round(perf_counter() - start, 1)
            write_json(path, dict(sorted(metrics.items())))
    return metrics[chapter.stem]


def _execute(chapter, output, parameters, progress):
    bar = {"desc": chapter.stem, "file": sys.stderr} if progress else False
    try:
        with kernel_config() as config:
            executed = papermill.execute_notebook(  # braces in a path would be a template
                *(str(path).replace("{", "{{").replace("}", "}}") for path in (chapter, output)),
                parameters=parameters,
                progress_bar=bar,
                kernel_name="python3",
                config=config,
                store_widget_state=False,
                shutdown_kernel="immediate",  # with torch loaded, Python takes seconds to end
            )
        nbformat.write(join_streams(executed), output)
    except PapermillExecutionError as error:
        raise ChapterError(_where(chapter, output, error)) from None
    except DeadKernelError:
        cell = _last_started_cell(output)
        raise ChapterError(
            f"{chapter.name}, cell {cell.id!r}: the kernel was killed, most often because memory ran out;"
            " free some, run without --side-by-side, or take a smaller batch_size or max_length."
            f" Up to there: {output}"
        ) from None


def _where(chapter, output, error):
    """One line for the failed cell: file, cell number and id, source line, error."""
    cell = nbformat.read(output, as_version=4).cells
    cell = next(c for c in cell if c.cell_type == "code" and c.source == error.source)
    trace = ANSI.sub("", "\n".join(error.traceback))
    where = f"{chapter.name}, cell [{error.exec_count}] {cell.id!r}"
    numbers = re.findall(rf"Cell In\s?\[{error.exec_count}\], line (\d+)", trace)
    if numbers:  # errors of our own come as one line, without a traceback
        where += f", line {numbers[-1]}: {error.source.splitlines()[int(numbers[-1]) - 1].strip()}"
    return f"{where}\n  {error.ename}: {error.evalue}\n  The notebook up to there: {output}"


def _last_started_cell(output):
    cells = nbformat.read(output, as_version=4).cells
    started = [c for c in cells if c.cell_type == "code" and c.metadata.papermill.start_time]
    return started[-1]


def _read_arguments(arguments):
    parser = argparse.ArgumentParser(prog="python -m helpers.runner", description=__doc__)
    parser.add_argument(
        "chapters", nargs="*", help="chapters, such as 04 or 04_training_loop; none means all"
    )
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set one parameter",
    )
    parser.add_argument(
        "-f", metavar="FILE", help="YAML file with parameters, such as parameters/smoke.yaml"
    )
    parser.add_argument(
        "--name",
        help="name of the run: results go to runs/NAME (default: the file's name, or default)",
    )
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="run chapters that do not wait for one another at the same time",
    )
    parser.add_argument(
        "--check", action="store_true", help="look through the data set, and run no chapter"
    )
    return parser.parse_args(arguments)


def _read_parameters(arguments):
    values = {}
    if arguments.f:
        try:
            values = yaml.safe_load(Path(arguments.f).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ParameterError(
                f"{arguments.f} cannot be read: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(values, dict):
            raise ParameterError(f"{arguments.f} must hold lines of the form 'name: value'")
    if arguments.name:
        values["run_dir"] = f"runs/{arguments.name}"
    else:
        values.setdefault("run_dir", f"runs/{Path(arguments.f).stem if arguments.f else 'default'}")
    for name, text in arguments.p:
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def _choose(names):
    chapters = []
    for name in names:
        found = [chapter for chapter in all_chapters() if chapter.stem.startswith(Path(name).stem)]
        if not found:
            raise ChapterError(
                f"no chapter {name!r}; there are {', '.join(c.stem for c in all_chapters())}"
            )
        chapters += found
    return chapters or all_chapters()


def _check(parameters):
    from helpers.check import check_dataset

    settings = check_values(parameters, with_rows=False)
    report = check_dataset(settings)
    print(report)
    check_enough_rows(settings, *all_sizes(report.splits["usable"]))
    return 0


def main(arguments=None):
    """Command line. Returns the exit status: 0, or 1 or 130 (Ctrl-C) after one message on stderr."""
    arguments = _read_arguments(arguments)
    try:
        parameters = _read_parameters(arguments)
        if arguments.check:
            return _check(parameters)
        start = perf_counter()
        chapters = _choose(arguments.chapters)
        metrics = run_chapters(chapters, parameters, side_by_side=arguments.side_by_side)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    print(table(metrics, perf_counter() - start))
    print(class_report(metrics))
    print(f"\nNotebooks, model and metrics.json: {run_folder(check_values(parameters))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
