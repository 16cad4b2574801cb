"""Measure, over several seeds, the interval of each figure of the chapters."""

import statistics

from suite.chapters import all_chapters, facts
from suite.runner import run_chapters, table
from suite.runs import EXPECTED, read_metrics, run_folder, write_json
from suite.settings import Settings

# Not the default seed: the intervals are checked in runs of the default settings alone.
SEEDS = tuple(range(8))


def settings_of(seed):
    """Return the default settings but for the seed, with a run folder of their own."""
    return Settings(seed=seed, run_dir=f"runs/ranges/seed-{seed}")


def interval(values):
    """Return mean ± 4 standard deviations. Shares and losses end at 0, and a gain has to lie above."""
    mean, spread = statistics.mean(values), statistics.stdev(values)
    low, high = max(mean - 4 * spread, 0.0), mean + 4 * spread
    return {"low": round(low, 3), "high": round(high, 3), "mean": round(mean, 4)}


def measure_ranges(seeds):
    """Run the chapters that train with every seed, and write the intervals of their figures."""
    chapters = [path for path in all_chapters() if facts(path)["trains"]]
    for seed in seeds:
        settings = settings_of(seed)
        metrics = run_chapters(chapters, {"seed": seed, "run_dir": settings.run_dir})
        print(table(metrics), flush=True)
    write_ranges(seeds)


def write_ranges(seeds):
    """Write mean ± 4 standard deviations over the runs of `measure_ranges` for every figure."""
    runs = [read_metrics(run_folder(settings_of(seed)) / "figures.json") for seed in seeds]
    figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        figures[name] = {**interval(values), "values": [round(value, 4) for value in values]}
    note = "measured by `make ranges`; low and high: mean ± 4 standard deviations over the seeds"
    write_json(EXPECTED, {"note": note, "seeds": list(seeds), "figures": figures})
