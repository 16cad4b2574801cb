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

from suite.errors import SourceError
from suite.model_folder import check_model_type
from suite.names import split_hub_name

COMMIT_HASH = re.compile(r"[0-9a-f]{40}")


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
    return str(config.parent)


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
        dataset = load_dataset(hub_id, revision=commit, keep_in_memory=False)
        files = [file["filename"] for rows in dataset.values() for file in rows.cache_files]
        if any(commit not in Path(file).parts for file in files):
            raise SourceError(
                f"dataset_name: {dataset_name!r} is in the cache with another commit only; connect, and run this again"
            )
    return dataset


def cached_model(model_name):
    """Return the folder of a model in the cache as a Path, or None. Needs no connection."""
    snapshots, _ = _in_cache("model", model_name)
    commit = cached_commit("model", model_name)
    return snapshots / commit if commit and (snapshots / commit).is_dir() else None


def cached_commit(kind, name):
    """Return the commit hash that a name stands for in the cache, or None. Needs no connection.

    kind: "model" or "dataset"
    """
    _, revision = split_hub_name(name)
    if COMMIT_HASH.fullmatch(revision or ""):
        return revision
    try:
        return _in_cache(kind, name)[1].read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _in_cache(kind, name):
    """Return (folder of a name's commits, file with the commit hash of its branch or tag)."""
    from huggingface_hub import constants

    hub_id, revision = split_hub_name(name)
    folder = Path(constants.HF_HUB_CACHE) / "--".join([f"{kind}s", *hub_id.split("/")])
    return folder / "snapshots", folder / "refs" / (revision or "main")


@contextmanager
def _explained(kind, name):
    """Yield (id, commit hash) of a name; a failure inside becomes one line of SourceError.

    The cache takes the commit for the newest one at the end, when all of it is there.
    """
    try:
        commit = _find_commit(kind, name)
        yield split_hub_name(name)[0], commit
        if cached_commit(kind, name) != commit:
            _, reference = _in_cache(kind, name)
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="utf-8")
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(_explain(error, kind, name)) from None


def _find_commit(kind, name):
    """Return the commit hash of a name as the Hub has it, or the cache, without the Hub."""
    from huggingface_hub import HfApi

    hub_id, revision = split_hub_name(name)
    _work_offline(False)
    try:
        # Without a time limit it waits for a silent firewall.
        return HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=10).sha
    except Exception as error:
        reason, commit = _unreachable(error), cached_commit(kind, name)
        if reason is None or commit is None:
            raise
    _work_offline(True)
    print(f"{name} comes from the cache: {reason}.")
    return commit


def _work_offline(offline):
    """Let the libraries try no connection: each call would try for half a minute.

    Where the user has set HF_HUB_OFFLINE, that holds.
    """
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = offline or _asked_to_work_offline()
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE


def _asked_to_work_offline():
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in {"1", "ON", "YES", "TRUE"}


def _chain(error):
    """The error, what caused it, what caused that, and so on."""
    errors = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def _status(error):
    """The HTTP status of the first answer in the chain, or 0."""
    answers = (getattr(link, "response", None) for link in _chain(error))
    return next((answer.status_code for answer in answers if answer is not None), 0)


def _first_line(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(" .:")


def _unreachable(error):
    """Say in half a sentence what stands between us and the Hub; None if nothing does."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # that of httpx, or of what followed it

    if _status(error) == 429 or _status(error) >= 500:
        return f"the Hub cannot answer now ({_status(error)})"
    failures = (HTTPError, ConnectionError, TimeoutError)
    silent = [link for link in _chain(error) if getattr(link, "response", None) is None]
    failed = [f" ({_first_line(link)})" for link in silent if isinstance(link, failures)]
    if not failed and not constants.HF_HUB_OFFLINE:
        return None
    if _asked_to_work_offline():
        return "HF_HUB_OFFLINE is set"
    return f"the connection to {constants.ENDPOINT} failed{''.join(failed[:1])}"


def _on_disk(error):
    """Whether an error tells of a disk that is full or closed to us."""
    numbers = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)
    # `datasets` and the Hub's Rust code say so without a number too.
    full = any(text in str(error) for text in ("No space left", "Not enough disk space"))
    return full or getattr(error, "errno", None) in numbers


def _explain(error, kind, name):
    """Say in one line what is wrong and what to do: one of five kinds of failure."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' * (kind == 'dataset')}{split_hub_name(name)[0]}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    own, other = "a folder", "model"
    if kind == "dataset":
        own, other = "a file", "data set, or download a file of it and give its path"
    missing = isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError))
    # What `datasets` does not find although its commit is known is gated.
    gated = isinstance(error, (errors.GatedRepoError, DatasetNotFoundError))

    if disk := next(filter(_on_disk, _chain(error)), None):
        said = f"cannot be stored ({_first_line(disk)}); make room, or set HF_HOME (now {constants.HF_HOME})"
    elif missing and not gated:
        said = f"is not on the Hub, or is private; check name and revision on {page}; if it is private, {log_in}"
    elif gated or _status(error) in (401, 403):
        said = f"is not open to you or your token; ask for access on {page}, then {log_in}"
    elif reason := _unreachable(error):
        said = (
            f"is not whole in the cache, and {reason}; connect or wait, and run this again;"
            f" the defaults and {own} of yours need no network"
        )
    else:
        reason = _first_line(error)
        if isinstance(error, errors.RemoteEntryNotFoundError):
            reason = f"there is no {Path(error.response.url.path).name}"
        said = f"cannot be loaded: {reason}; take another {other}"
    return f"{kind}_name: {name!r} {said}"
