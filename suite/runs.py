"""What the chapters leave in `run_dir`, and which settings and code made it.

A folder of results carries `made_by.json`. A later chapter takes the folder if
that file fits its own settings, and has it made anew if not. Files and folders are
written under another name first and then renamed, so that nobody reads half of one.
"""

import errno
import json
import os
import re
import resource
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from suite.chapters import ROOT, code_digest, facts, maker
from suite.errors import UserError
from suite.hub import cached_commit
from suite.names import split_hub_name
from suite.settings import DATA_PARAMETERS, MODEL_PARAMETERS, Settings

PATIENCE = 20  # seconds; preparing data takes less
EXPECTED = Path(__file__).with_name("expected.json")
TORCH_CANNOT_WRITE = re.compile(r"PytorchStreamWriter failed|iostream error|inline_container.*pos")
# Paths that a process has locked for those that it starts.
HELD = "FINETUNING_LOCKS_HELD"


def run_folder(settings):
    """Return `run_dir` as a Path and make the folder. Relative ones start at the project's root.

    Raises UserError if it cannot be made.
    """
    base = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
    try:
        folder = base / Path(settings.run_dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"run_dir: the folder {settings.run_dir!r} cannot be made: {reason}; give another one"
        ) from None
    return folder


def check_run_folder(settings):
    """Raise UserError unless files can be written to `run_dir`; leaves none there."""
    folder = run_folder(settings)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"run_dir: {settings.run_dir!r} cannot be written to: {error.strerror}; give another one"
        ) from None


def made_by(settings, product):
    """Return what a product depends on: the code of its chapter, parameters, files, library versions.

    product: what a chapter makes, such as "data" or "model"
    Files are those of a local model or data set, or the commit of one of the Hub.
    """
    chapter = maker(product)
    names = DATA_PARAMETERS if product == "data" else MODEL_PARAMETERS
    values = {name: value for name, value in asdict(settings).items() if name in names}
    return {
        "chapter": chapter.stem,
        "code": code_digest(chapter),
        "parameters": values,
        "files": [file_stamps(kind, values[f"{kind}_name"]) for kind in ("model", "dataset")],
        "versions": {name: version(name) for name in facts(chapter)["packages"]},
    }


def is_made_by(folder, stamp):
    """Tell whether `folder` was made by exactly this `made_by(...)`, and no file of it is cut short or gone."""
    try:
        found = json.loads((folder / "made_by.json").read_text(encoding="utf-8"))
        sizes = found.pop("sizes")
        return found == stamp and all((folder / n).stat().st_size == sizes[n] for n in sizes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


@contextmanager
def locked(path):
    """Keep other processes from what lies at `path`, a file or folder of a run, while the block runs.

    Waits for a process that is there already, and says so if it takes longer than `PATIENCE`. The
    lock ends with its process, however that ends. What a parent has locked for this process is free.
    """
    if str(path) in os.environ.get(HELD, "").split(os.pathsep):
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        print(f"Another run works on {path.name} of the same run_dir: waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_folder(settings, product):
    """Yield an empty folder that takes the place of `run_dir/product` when the block ends well.

    If the block fails, what was there stays as it was; a full disk is said in one line. No other
    process reads or writes it meanwhile, if it keeps to `locked`.
    """
    folder, stamp = run_folder(settings) / product, made_by(settings, product)
    with locked(folder):
        try:
            with replacing(folder) as building:
                yield building
                files = [file for file in sorted(building.rglob("*")) if file.is_file()]
                sizes = {f.relative_to(building).as_posix(): f.stat().st_size for f in files}
                write_json(building / "made_by.json", {**stamp, "sizes": sizes})
                follow_umask(building)
        except Exception as error:
            if reason := disk_is_full(error, settings):
                raise UserError(reason) from error
            raise


@contextmanager
def replacing(folder):
    """Yield an empty folder that takes the place of another when the block ends well."""
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = building.with_name(f"{building.name}-old")
    try:
        yield building
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def disk_is_full(error, settings):
    """Return a line that says so if an error, of whatever library, means that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full |= isinstance(error, SafetensorError) and "No space left" in str(error)
    full |= isinstance(error, RuntimeError) and bool(TORCH_CANNOT_WRITE.search(str(error)))
    if not full:
        return None
    free = shutil.disk_usage(run_folder(settings)).free // 2**20
    return f"the disk of {settings.run_dir!r} is full ({free} MiB free); make room and start again"


def write_json(path, values):
    """Write `values` to `path` in one step: a reader sees the old file or the new one, never half."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    follow_umask(Path(file.name))
    os.replace(file.name, path)


def follow_umask(path):
    """Let others read a file, or a folder with all in it, as far as the user's umask lets them.

    What `tempfile` makes and safetensors writes is closed to others.
    """
    mask = os.umask(0)
    os.umask(mask)
    for each in [path, *path.rglob("*")]:
        each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)


def read_metrics(path):
    """Return what `metrics.json` holds, {chapter: {figure: value}}; {} if there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _add(path, values):
    with locked(path):
        write_json(path, read_metrics(path) | values)


def peak_memory_mib():
    """Return the most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` starts from the memory of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def record_metrics(settings, chapter, **figures):
    """Put a chapter's key figures into `metrics.json` of the run, beside those of other chapters.

    Adds `peak_memory_mib`: the most memory this process has held, in MiB.
    """
    figures["peak_memory_mib"] = round(peak_memory_mib())
    _add(run_folder(settings) / "metrics.json", {chapter: figures})


def show_figures(settings, **figures):
    """Print figures that depend on training, and check them if the settings are the default ones.

    The sign ≈ marks a number that another processor may round otherwise. The interval beside it was
    measured over several seeds by `make ranges`, which takes the figures from `figures.json` of the run.
    Raises AssertionError if a figure lies outside its interval.
    """
    figures = {name: float(value) for name, value in figures.items()}
    _add(run_folder(settings) / "figures.json", figures)
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))["figures"]
    usual = Settings(run_dir=settings.run_dir, device=settings.device)
    for name, value in figures.items():
        label = name.replace("_", " ")
        if settings != usual:
            print(f"{label} ≈ {value:.3f}")
            continue
        low, high = expected[name]["low"], expected[name]["high"]
        print(f"{label} ≈ {value:.3f}   (expected {low:.3f} to {high:.3f})")
        assert low <= value <= high, (
            f"{label} is {value:.4f}, outside the measured interval {low} to {high}"
        )


def file_stamps(kind, name):
    """Path, bytes and time of change of the local files that `name` stands for, none if packaged.

    For one of the Hub its commit hash in the cache.
    """
    if split_hub_name(name):
        return [cached_commit(kind, name)]
    path = Path(os.path.expanduser(name)).resolve()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
