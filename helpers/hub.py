"""Models and data sets of the Hub: in the cache of the 🤗 libraries, or one line that says why not.

`from_pretrained` and `load_dataset` do the work. What stands here decides which commit they
take, what to do without a connection, and what a failure means for the person who reads it.
"""

import errno
import json
import os
import re
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from helpers.model_folder import check_model_type
from helpers.sources import SourceError, split_hub_name

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
PARAMETERS = {"model": "model_name", "dataset": "dataset_name"}
COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
FAULTS = range(500, 600)


@cache
def fetch_model(model_name):
    """Return the folder of a model of the Hub: config, tokenizer and weights, all of one commit.

    Downloads what is not in the cache yet. Asks the Hub for the newest commit, and does with
    the newest one in the cache if there is no connection.

    Raises SourceError if the model cannot be had.
    """
    with _explained("model", model_name) as (hub_id, commit):
        from huggingface_hub import hf_hub_download
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        config = Path(hf_hub_download(hub_id, "config.json", revision=commit))
        check_model_type(json.loads(config.read_text(encoding="utf-8")), model_name)
        AutoTokenizer.from_pretrained(hub_id, revision=commit)
        # The device "meta" holds no numbers: the weights are fetched and not read.
        AutoModelForSequenceClassification.from_pretrained(
            hub_id, revision=commit, device_map="meta", use_safetensors=True
        )
    return str(_repository("model", hub_id) / "snapshots" / commit)


def fetch_dataset(dataset_name):
    """Return a data set of the Hub as a DatasetDict, and see that the next `load_dataset` finds it.

    Downloads and without a connection takes from the cache as `fetch_model` does.

    Raises SourceError if the data set cannot be had.
    """
    with _explained("dataset", dataset_name) as (hub_id, commit):
        from datasets import config, load_dataset

        # Without a connection `load_dataset` takes the folder that changed last, of any commit.
        for folder in Path(config.HF_DATASETS_CACHE).glob(f"*/*/*/{commit}"):
            os.utime(folder)
        dataset = load_dataset(hub_id, revision=commit)
        files = [file["filename"] for rows in dataset.values() for file in rows.cache_files]
        if any(commit not in Path(file).parts for file in files):
            raise SourceError(
                f"dataset_name: {dataset_name!r} is in the cache with another commit only;"
                " connect, and run this again"
            )
    return dataset


def cached_model(model_name):
    """Return the folder of a model in the cache as a Path, or None. Needs no connection."""
    commit = cached_commit("model", model_name)
    if commit is None:
        return None
    hub_id, _ = split_hub_name(model_name)
    folder = _repository("model", hub_id) / "snapshots" / commit
    return folder if folder.is_dir() else None


def cached_commit(kind, name):
    """Return the commit hash that a name stands for in the cache, or None. Needs no connection.

    kind: "model" or "dataset"
    """
    hub_id, revision = split_hub_name(name)
    if COMMIT_HASH.fullmatch(revision or ""):
        return revision
    try:
        return _reference(kind, hub_id, revision).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _repository(kind, hub_id):
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "--".join([f"{kind}s", *hub_id.split("/")])


def _reference(kind, hub_id, revision):
    """The file in the cache that holds the commit hash of a branch or tag."""
    return _repository(kind, hub_id) / "refs" / (revision or "main")


@contextmanager
def _explained(kind, name):
    """Yield (id, commit hash) of a name; a failure inside becomes one line of SourceError.

    After a failure the cache holds the commit that it held before: the new one is not whole.
    """
    hub_id, revision = split_hub_name(name)
    before, folder = cached_commit(kind, name), _repository(kind, hub_id)
    was_there = folder.exists()
    try:
        yield hub_id, _find_commit(kind, name)
    except BaseException as error:
        reference = _reference(kind, hub_id, revision)
        if before is None:
            reference.unlink(missing_ok=True)
        elif reference.is_file():
            reference.write_text(before, encoding="utf-8")
        if not was_there:
            _remove_empty_folders(folder)
        if isinstance(error, SourceError) or not isinstance(error, Exception):
            raise
        raise SourceError(_explain(error, kind, name)) from None


def _find_commit(kind, name):
    """Return the commit hash of a name as the Hub has it, or the cache, without the Hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    hub_id, revision = split_hub_name(name)
    wanted = {"repo_id": hub_id, "repo_type": kind, "revision": revision}
    _work_offline(False)
    try:
        # It answers within seconds or fails; `resolve_revision` waits for a silent firewall.
        HfApi().repo_info(**wanted, timeout=10)
    except Exception as error:
        unreachable = _names(error) & {"TransportError", "OfflineModeIsEnabled"}
        if not unreachable and _status(error) not in (429, *FAULTS):
            raise
        _work_offline(True)
        try:
            found = HfApi().resolve_revision(**wanted, local_files_only=True)
        except RevisionResolutionError:
            raise SourceError(_explain(error, kind, name)) from None
        print(f"{name} comes from the cache: {_unreachable(error)}.")
        return found.resolved
    return HfApi().resolve_revision(**wanted).resolved


def _work_offline(offline):
    """Let the libraries try no connection: each call would try for half a minute.

    Where the user has set HF_HUB_OFFLINE, that holds.
    """
    from huggingface_hub import constants

    if not _asked_to_work_offline():
        constants.HF_HUB_OFFLINE = offline
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = offline


def _asked_to_work_offline():
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in {"1", "ON", "YES", "TRUE"}


def _remove_empty_folders(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _chain(error):
    """The error, what caused it, what caused that, and so on."""
    errors = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def _names(error):
    """The names of the classes of all errors in the chain, and of the classes these inherit from.

    By name, because they come from half a dozen packages, some of them not public.
    """
    return {parent.__name__ for link in _chain(error) for parent in type(link).__mro__}


def _status(error):
    """The HTTP status of the first answer in the chain, or None."""
    answers = [getattr(link, "response", None) for link in _chain(error)]
    return next((answer.status_code for answer in answers if answer is not None), None)


def _first_line(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(" .:")


def _unreachable(error):
    """Say in half a sentence what stands between us and the Hub."""
    from huggingface_hub import constants

    status = _status(error)
    if _asked_to_work_offline():
        return "HF_HUB_OFFLINE is set"
    if status == 429:
        return "the Hub takes no more requests for now (429)"
    if status in FAULTS:
        return f"the Hub has a fault ({status})"
    reason = f" ({_first_line(error)})" if "TransportError" in _names(error) else ""
    return f"{constants.ENDPOINT} cannot be reached{reason}"


def _explain(error, kind, name):
    """Say in one line what is wrong and what to do."""
    from huggingface_hub import constants

    hub_id, revision = split_hub_name(name)
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{hub_id}"
    names, status = _names(error), _status(error)
    text = "\n".join(str(link) for link in _chain(error))
    own = "a folder" if kind == "model" else "a file"

    if "No space left" in text or "Not enough disk space" in text:
        said = f"does not fit on the disk; free some, or set HF_HOME (now {constants.HF_HOME})"
    elif "PermissionError" in names or getattr(error, "errno", None) == errno.EROFS:
        said = f"cannot be stored; set HF_HOME to a folder of yours ({_first_line(error)})"
    elif "RevisionNotFoundError" in names:
        said = f"has no revision {revision!r}; {page} lists its branches, tags and commits"
    elif "GatedRepoError" in names or "is a gated dataset" in text:
        said = f"is gated; ask for access on {page}, then {LOG_IN}"
    elif "Invalid credentials" in text or "Invalid user token" in text:
        said = (
            "is refused because of your token; log in again with `hf auth login`, or unset HF_TOKEN"
        )
    elif "RepositoryNotFoundError" in names:
        said = f"is not on the Hub, or is private; check the spelling; if it is private, {LOG_IN}"
    elif status in (401, 403):
        said = f"is not open to you ({status}); ask for access on {page}, then {LOG_IN}"
    elif "Config name is missing" in text or "Please specify which configuration" in text:
        said = "has several configurations; download a file of the one you mean and give its path"
    elif "Dataset scripts are no longer supported" in text:
        said = (
            "is made by a script, which `datasets` no longer runs; give a file, or another data set"
        )
    elif names & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        said = "holds no files that `datasets` can read; give a file, or another data set"
    elif "EntryNotFoundError" in names and "config.json" in text or "says no model_type" in text:
        said = "has no config.json that names the kind of model; choose another model"
    elif "does not appear to have" in text:
        said = "has no weights that `transformers` can load; choose another model"
    elif status == 429 or status in FAULTS:
        said = f"is not in the cache, and {_unreachable(error)}; try again in some minutes"
    elif constants.HF_HUB_OFFLINE or names & {"ConnectError", "ConnectTimeout"}:
        said = (
            f"is not whole in the cache, and {_unreachable(error)};"
            f" connect, or give {own}, or take the defaults, which need no network"
        )
    elif names & {"TransportError", "ConnectionError"} or "Consistency check failed" in text:
        said = "broke off while it was downloaded; run this again, what came whole is kept"
    else:
        said = f"cannot be loaded: {_first_line(error)}"
    return f"{PARAMETERS[kind]}: {name!r} {said}"
