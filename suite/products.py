"""What earlier chapters make: taken from `run_dir`, or made by running the chapter.

`python -m suite.products FILE` is what a chapter calls for that; FILE says which chapter to run.
"""

import codecs
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from suite.chapters import maker
from suite.errors import ChapterError, UserError
from suite.runs import HELD, is_made_by, locked, made_by, run_folder
from suite.settings import PARAMETERS


@contextmanager
def product(name, settings):
    """Yield the folder `run_dir/name`, made by its chapter if it is not there with these settings.

    name: what a chapter makes: "data", "model", "trainer" or "keras"

    The chapter runs through papermill in a process of its own, with the same parameters, and shows its
    own progress bars here. While the block runs, no other process puts another product there.
    Raises UserError with one line if the chapter fails.
    """
    chapter = maker(name)
    folder, output = run_folder(settings) / name, run_folder(settings) / chapter.name
    stamp = made_by(settings, name)
    with ExitStack() as locks:
        locks.enter_context(locked(folder))
        if not is_made_by(folder, stamp):
            # Whoever runs a chapter takes these two in this order.
            locks.close()
            locks.enter_context(locked(output))
            locks.enter_context(locked(folder))
            if not is_made_by(folder, stamp):
                print(
                    f"No {name} of these parameters in {settings.run_dir}: running {chapter.stem}."
                )
                _run(chapter, settings, [folder, output])
        yield folder


def _run(chapter, settings, held):
    """Run a chapter in a process of its own, which need not wait for the locks in `held`."""
    values = asdict(settings).items()
    parameters = {name: value for name, value in values if value != PARAMETERS[name].default}
    locks = os.pathsep.join([*filter(None, [os.environ.get(HELD)]), *map(str, held)])
    with tempfile.TemporaryDirectory() as temporary:
        job = Path(temporary, "job.json")
        job.write_text(json.dumps({"chapter": str(chapter), "parameters": parameters}))
        process = subprocess.Popen(
            [sys.executable, "-m", "suite.products", str(job)],
            env={**os.environ, HELD: locks},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            while text := process.stderr.read1():
                sys.stderr.write(decoder.decode(text))
                sys.stderr.flush()
            if process.wait():
                failed = Path(temporary, "failed.txt")
                reason = failed.read_text() if failed.is_file() else "its process was killed"
                raise ChapterError(f"{chapter.stem} did not run to its end: {reason}")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


def main(file):
    """Run the chapter that a file names; return the exit status. A failure is told in a file beside it."""
    from suite.runner import run_chapters  # what chapters do not need themselves

    job = json.loads(Path(file).read_text())
    try:
        run_chapters([Path(job["chapter"])], job["parameters"], progress=False, live=True)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        Path(file).with_name("failed.txt").write_text(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
