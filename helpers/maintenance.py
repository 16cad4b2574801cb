"""For maintainers: store the chapters' outputs, measure the intervals of their figures.

`python -m helpers.maintenance refresh` runs every chapter with the default parameters and writes
its outputs into notebooks/. `python -m helpers.maintenance ranges` runs the chapters that train a model
with several seeds and writes the interval of each figure to helpers/expected.json; refresh afterwards.
`python -m helpers.maintenance accuracies` trains on all three roads with more seeds and writes their
accuracies to helpers/accuracies.json.
`python -m helpers.maintenance overhead` prints what the chapters of the last `make run` cost beside their work.
`python -m helpers.maintenance exercises` writes the exercises of solutions/ into the chapters.
`python -m helpers.maintenance links --repo owner/name` writes the project's address into all that says it.
`python -m helpers.maintenance lowest` prints the lowest versions of pyproject.toml, for pip.
"""

import argparse
import ast
import base64
import json
import re
import statistics
import subprocess
import sys
import tomllib

import nbformat

from helpers.errors import UserError
from helpers.exercises import write_exercises
from helpers.links import write_links
from helpers.parameters import Settings, parameters_cell
from helpers.runner import NOTEBOOKS, all_chapters, run_chapters, table
from helpers.runs import EXPECTED, read_metrics, run_folder, write_json

# Not the default seed: the intervals are checked in runs of the default settings alone.
SEEDS = tuple(range(8))
# Means of the roads need more: one run's accuracy moves by a point or two with the seed.
MORE_SEEDS = tuple(range(12))
ACCURACIES = EXPECTED.with_name("accuracies.json")
# Figures of a run that no interval is kept for: they are the machine's, or held elsewhere.
NOT_OF_TRAINING = {
    "seconds",
    "peak_memory_mib",
    "classes",
    "difference_of_logits",
    "difference_of_losses",
    "speed_of_trainer",
    "recall_of_rare_class",
    "recall_of_rare_class_balanced",
}
# The chapters that train a model to keep; 08 and 09 measure speed, or repeat what is known.
TRAINING = ("03", "04", "05", "06", "07", "10")
MAGIC = re.compile(r"\s*[%!]")
PICTURE = NOTEBOOKS.parent / "images" / "baselines.png"


def refresh():
    """Run every chapter in one clean run and store what it printed."""
    for path in all_chapters():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = parameters_cell()
        nbformat.write(notebook, path)
    metrics = run_chapters(all_chapters(), {})
    for path in all_chapters():
        executed = nbformat.read(run_folder(Settings()) / path.name, as_version=4)
        nbformat.write(stored_form(executed), path)
    save_picture()
    print(table(metrics))


def save_picture():
    """Write the picture of the README: the figure that chapter 05 draws of model and baselines."""
    cells = nbformat.read(NOTEBOOKS / "05_evaluation.ipynb", as_version=4).cells
    cell = next(cell for cell in cells if cell.id == "draw-baselines")
    PICTURE.write_bytes(base64.b64decode(cell.outputs[0].data["image/png"]))


def stored_form(notebook):
    """Strip what papermill and the clock put into an executed notebook, and what a screen overwrites."""
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    notebook.metadata["language_info"].pop("version", None)
    for cell in notebook.cells:
        cell.metadata = {
            name: value
            for name, value in cell.metadata.items()
            if name in ("tags", "reason", "alt") and value
        }
    nbformat.validate(notebook)
    return notebook


def interval(values):
    """Return mean ± 4 standard deviations. Shares and losses end at 0, and a gain has to lie above."""
    mean, spread = statistics.mean(values), statistics.stdev(values)
    low, high = max(mean - 4 * spread, 0.0), mean + 4 * spread
    return {"low": round(low, 3), "high": round(high, 3), "mean": round(mean, 4)}


def measure_ranges(seeds):
    """Run the chapters that train with every seed, and write the intervals of their figures."""
    chapters = [path for path in all_chapters() if path.stem[:2] in TRAINING]
    for seed in seeds:
        metrics = run_chapters(chapters, {"seed": seed, "run_dir": f"runs/ranges/seed-{seed}"})
        print(table(metrics), flush=True)
    write_ranges(seeds)


def write_ranges(seeds):
    """Write mean ± 4 standard deviations over the runs of `measure_ranges` for every figure."""
    runs = []
    for seed in seeds:
        metrics = read_metrics(
            NOTEBOOKS.parent / "runs" / "ranges" / f"seed-{seed}" / "metrics.json"
        )
        runs.append(
            {name: value for chapter in metrics.values() for name, value in chapter.items()}
        )
    figures = {}
    for name in runs[0].keys() - NOT_OF_TRAINING:
        values = [run[name] for run in runs]
        figures[name] = {**interval(values), "values": [round(value, 4) for value in values]}
    figures = {name: figures[name] for name in runs[0] if name in figures}
    note = "measured by `make ranges`; low and high: mean ± 4 standard deviations over the seeds"
    write_json(EXPECTED, {"note": note, "seeds": list(seeds), "figures": figures})


def measure_accuracies(seeds):
    """Train on every road with every seed, and write the accuracies on the test rows.

    A seed that was measured before is not trained again while its models are there.
    """
    from helpers.roads import CODE, accuracy_of  # heavy, and no other command needs them

    accuracies = {road: [] for road in CODE}
    for seed in seeds:
        settings = Settings(seed=seed, run_dir=f"runs/ranges/seed-{seed}")
        for road, values in accuracies.items():
            values.append(round(accuracy_of(road, settings), 4))
        print(seed, {road: values[-1] for road, values in accuracies.items()}, flush=True)
    means = {road: round(statistics.mean(values), 4) for road, values in accuracies.items()}
    note = "measured by `make accuracies`: accuracy on the test rows, default settings but the seed"
    write_json(ACCURACIES, {"note": note, "seeds": list(seeds), "means": means, **accuracies})


def lowest():
    """Return a pip constraint for each dependency: the lowest version that pyproject.toml allows.

    JupyterLab and the browser's driver are left out: `make test` needs neither.
    """
    project = tomllib.loads((NOTEBOOKS.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["keras"] + extras["test"]
    return [re.sub("[>=]=([^,]+).*", r"==\1", line) for line in lines]


def overhead(folder):
    """Return what each chapter of the run in `folder` cost beside its work.

    {chapter: (seconds in all, seconds to start and stop the kernel, seconds to import what its
    cells import)}. The imports are measured now, in a fresh process for each chapter. Chapters that
    did not run to their end there are left out; raises UserError if none did.
    """
    costs = {}
    for path in all_chapters():
        if not (folder / path.name).is_file():
            continue
        notebook = nbformat.read(folder / path.name, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if any(cell.metadata.papermill.duration is None for cell in cells):
            continue
        code = (line for cell in cells for line in f"{cell.source}\n".splitlines(keepends=True))
        nodes = ast.walk(ast.parse("".join(line for line in code if not MAGIC.match(line))))
        imports = [ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
        timed = ["from time import perf_counter", "start = perf_counter()", *imports]
        command = [sys.executable, "-c", "\n".join([*timed, "print(perf_counter() - start)"])]
        seconds = notebook.metadata.papermill.duration
        kernel = seconds - sum(cell.metadata.papermill.duration for cell in cells)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        costs[path.stem] = seconds, kernel, float(done.stdout.splitlines()[-1])
    if not costs:
        raise UserError(f"{folder} holds no chapter that ran to its end: call `make run` first")
    return costs


def print_overhead(costs):
    """Print the table of `overhead`."""
    print(f"{'chapter':<26}{'seconds':>9}{'kernel':>9}{'imports':>9}{'together':>9}")
    totals = [sum(column) for column in zip(*costs.values(), strict=True)]
    for chapter, (seconds, kernel, imports) in {**costs, "all": totals}.items():
        print(f"{chapter:<26}{seconds:>9.1f}{kernel:>9.1f}{imports:>9.1f}{kernel + imports:>9.1f}")


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.maintenance", description=__doc__)
    commands = ("refresh", "ranges", "accuracies", "overhead", "exercises", "links", "lowest")
    parser.add_argument("command", choices=commands)
    parser.add_argument(
        "--seeds", type=json.loads, help="JSON list of seeds for ranges and accuracies"
    )
    parser.add_argument("--repo", help="owner/name on GitHub for links (default: git's origin)")
    arguments = parser.parse_args(arguments)
    try:
        if arguments.command == "refresh":
            refresh()
        elif arguments.command == "exercises":
            write_exercises(all_chapters())
        elif arguments.command == "links":
            print(f"https://github.com/{write_links(arguments.repo)}")
        elif arguments.command == "ranges":
            measure_ranges(arguments.seeds or SEEDS)
        elif arguments.command == "accuracies":
            measure_accuracies(arguments.seeds or MORE_SEEDS)
        elif arguments.command == "overhead":
            print_overhead(overhead(run_folder(Settings())))
        else:
            print("\n".join(lowest()))
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
