"""For maintainers: store the chapters' outputs, measure the intervals of their figures.

`python -m helpers.maintenance refresh` runs every chapter with the default parameters and writes
its outputs into notebooks/. `python -m helpers.maintenance ranges` runs chapters 03 to 05 with several
seeds and writes the interval of each figure to helpers/expected.json; refresh afterwards.
"""

import argparse
import base64
import json
import statistics
import sys

import nbformat

from helpers.parameters import Settings, parameters_cell
from helpers.runner import NOTEBOOKS, all_chapters, run_chapters, table
from helpers.runs import EXPECTED, run_folder, write_json

# Not the default seed: the intervals are checked in runs of the default settings alone.
SEEDS = tuple(range(8))
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
            if name in ("tags", "reason") and value
        }
    nbformat.validate(notebook)
    return notebook


def interval(values):
    """Return mean ± 4 standard deviations. Shares and losses end at 0, and a gain has to lie above."""
    mean, spread = statistics.mean(values), statistics.stdev(values)
    low, high = max(mean - 4 * spread, 0.0), mean + 4 * spread
    return {"low": round(low, 3), "high": round(high, 3), "mean": round(mean, 4)}


def measure_ranges(seeds):
    """Write mean ± 4 standard deviations over the seeds for every figure that a chapter checks."""
    runs = []
    chapters = [path for path in all_chapters() if path.stem[:2] in ("03", "04", "05")]
    for seed in seeds:
        metrics = run_chapters(chapters, {"seed": seed, "run_dir": f"runs/ranges/seed-{seed}"})
        print(table(metrics), flush=True)
        runs.append(
            {name: value for figures in metrics.values() for name, value in figures.items()}
        )
    figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        if name in ("seconds", "peak_memory_mib"):
            continue
        figures[name] = {**interval(values), "values": [round(value, 4) for value in values]}
    note = "measured by `make ranges`; low and high: mean ± 4 standard deviations over the seeds"
    write_json(EXPECTED, {"note": note, "seeds": list(seeds), "figures": figures})


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.maintenance", description=__doc__)
    parser.add_argument("command", choices=("refresh", "ranges"))
    parser.add_argument(
        "--seeds", type=json.loads, default=SEEDS, help="JSON list of seeds for ranges"
    )
    arguments = parser.parse_args(arguments)
    refresh() if arguments.command == "refresh" else measure_ranges(arguments.seeds)


if __name__ == "__main__":
    sys.exit(main())
