"""Install the suite where it is missing: Colab, Kaggle, any kernel without it.

The set-up cell of a chapter fetches the project and calls `install` of this file in its kernel, so
this file imports only what every kernel has. What is installed stays, torch and NumPy in any case:
theirs are built for the machine's devices. pip adds what is missing or too old.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement  # ipykernel needs packaging, too
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("numpy", "torch")
SHOWN = ("torch", "numpy", "transformers", "datasets", "accelerate")


class InstallError(Exception):
    """The suite cannot be used in this kernel; the message says what to do, in one line."""

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


def install(*extras):
    """Install what this project lacks here, and print the versions and the device.

    extras: names of optional dependencies in pyproject.toml, such as "keras"
    Raises InstallError if a package that must stay is too old, if pip fails, or if the kernel has
    loaded a version that is no longer the installed one.
    """
    requirements = _requirements(extras)
    kept = {name: version(name) for name in KEPT if importlib.util.find_spec(name)}
    for requirement in requirements:
        found = kept.get(requirement.name)
        if found and not requirement.specifier.contains(found, prereleases=True):
            raise InstallError(
                f"{requirement.name} {found} is installed, the suite needs {requirement}, and does not"
                f" replace it by itself; run `%pip install '{requirement}'`, restart the kernel, and"
                " run the chapter from its first cell"
            )
    _pip_install(extras, kept)
    importlib.invalidate_caches()
    stale = _stale([canonicalize_name(requirement.name) for requirement in requirements])
    if stale:
        raise InstallError(
            f"{stale}; restart the kernel (Colab: Runtime, Restart session; Kaggle: Run, Restart) and"
            " run the chapter from its first cell"
        )
    sys.path.insert(0, str(ROOT))  # what pip has written there is read when a kernel starts
    print(_table())


def _requirements(extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [project["optional-dependencies"][extra] for extra in extras]
    return [Requirement(text) for texts in (project["dependencies"], *optional) for text in texts]


def _pip_install(extras, kept):
    suite = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "kept.txt")
        constraints.write_text("\n".join(f"{name}=={kept[name]}" for name in kept))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--constraint", str(constraints), "--editable", suite]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InstallError(f"pip could not install what is missing: {' '.join(lines)}")


def _stale(names):
    """Say which of these packages the kernel has loaded in another version than the installed one."""
    found = []
    for module, owners in packages_distributions().items():
        for owner in {owner for owner in owners if canonicalize_name(owner) in names}:
            loaded = getattr(sys.modules.get(module), "__version__", None)
            if loaded and str(loaded) != version(owner):
                found.append(f"{owner} {loaded} is loaded, but {version(owner)} is installed now")
    return ", ".join(found)


def _table():
    place = "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "this kernel"
    place = "Colab" if "google.colab" in sys.modules else place
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    rows = {"where": place, "device": device, "python": sys.version.split()[0]}
    rows |= {name: version(name) for name in SHOWN}
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())
