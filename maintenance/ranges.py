"""Measure, over several seeds, the interval of each figure of the chapters."""

import statistics

from suite.chapters import all_chapters, facts
from suite.runner import run_chapters, table
from suite.runs import EXPECTED, read_metrics, run_folder, write_json
from suite.settings import Settings

# Not the default seed: the intervals are checked in runs of the default settings alone.
SEEDS = tuple(range(8))


def measure_ranges():
    """Run the chapters that train with every seed; write the interval of each of their figures."""
    chapters, runs = [path for path in all_chapters() if facts(path)["trains"]], []
    for seed in SEEDS:
        run_dir = f"runs/ranges/seed-{seed}"
        print(table(run_chapters(chapters, {"seed": seed, "run_dir": run_dir})), flush=True)
        runs.append(read_metrics(run_folder(Settings(run_dir=run_dir)) / "figures.json"))
    figures = {name: _interval([run[name] for run in runs]) for name in runs[0]}
    note = "measured by `make ranges`; low and high: mean ± 4 standard deviations over the seeds"
    write_json(EXPECTED, {"note": note, "seeds": list(SEEDS), "figures": figures})


def _interval(values):
    """Return mean ± 4 standard deviations. Shares and losses end at 0, and a gain has to lie above."""
    mean, spread = statistics.mean(values), statistics.stdev(values)
    low, high = round(max(mean - 4 * spread, 0.0), 3), round(mean + 4 * spread, 3)
    values = [round(value, 4) for value in values]
    return {"low": low, "high": high, "mean": round(mean, 4), "values": values}
