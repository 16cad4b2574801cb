"""A measurement in a process of its own, so that its memory, threads and caches are its own too.

`multiprocessing` would not do: it runs the parent's main module again, and that may be a chapter
that was made a script.
"""

import json
import os
import pkgutil
import reprlib
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_child(function, *arguments, environment=None, timeout=None):
    """Call `function`, written as "module:name", in a fresh process; return what it returned.

    Arguments and result travel as JSON. environment: variables to set beside those of this process

    Raises RuntimeError with the last lines of the process if it fails, and
    subprocess.TimeoutExpired if it took longer than `timeout` seconds and was killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # with the chapter that it may have started
        process.communicate()
        raise
    if process.returncode:
        call = f"{function} {reprlib.repr(arguments)}"
        raise RuntimeError(f"{call} ended with {process.returncode}:\n{errors[-2000:]}")
    return json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(pkgutil.resolve_name(sys.argv[1])(*json.loads(sys.argv[2]))))
