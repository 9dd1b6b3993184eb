r"""Kills a run whose working directory lies in a store, and compares what it ends with.

  python tests/faults/bucket_runs.py --kills=10 --folder=/tmp/bucket_runs --seed=0

The store is a folder under the rules of object stores: objects appear whole, or not at all.
The run saves after each iteration. One kill in three comes anywhere before the session's
first save, the others just after it has begun to arrive. After every second kill the local
copy is removed, as on another machine. At the end the
metrics (times apart), evaluations, episodes and parameters are compared with those of the
same run in a local directory, bit for bit.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import kill_runs  # noqa: E402

from agentrl.checkpoints import checkpoint  # noqa: E402

TRAIN = """
import os, sys
import fsspec
from fsspec.implementations import local

class Whole(local.LocalFileSystem):
    '''A folder in which objects appear whole.'''
    protocol = "whole"

    def _put(self, path, write):
        path = self._strip_protocol(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.{os.getpid()}.partial"
        write(partial)
        os.replace(partial, path)

    def pipe_file(self, path, value, **options):
        self._put(path, lambda partial: open(partial, "wb").write(value))

    def put_file(self, lpath, rpath, **options):
        data = open(lpath, "rb").read()
        self.pipe_file(rpath, data)

    def find(self, path, **options):
        return [name for name in super().find(path) if not name.endswith(".partial")]

fsspec.register_implementation("whole", Whole)
from agentrl.buckets import lease
lease.SECONDS = 2.0
from agentrl.launch import train
from absl import app
app.run(train.main)
"""


def start(url: str, scratch: pathlib.Path, log: pathlib.Path) -> subprocess.Popen:
    """Starts or continues the run at `url`."""
    variables = {
        "AGENTRL_ENVS": "recall=recall_env",
        "AGENTRL_SCRATCH": str(scratch),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
    }
    config = f"--config={HERE / 'three_stages.py'}"
    with log.open("a") as out:
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                TRAIN,
                config,
                f"--workdir={url}",
                "--set=save_every=1",
            ],
            env=os.environ | variables,
            stdout=out,
            stderr=out,
            process_group=0,
        )


def stored_steps(store: pathlib.Path) -> set[str]:
    """The checkpoints of which the store holds something."""
    folder = store / checkpoint.FOLDER
    return set(os.listdir(folder)) if folder.is_dir() else set()


def wait_for_upload(store: pathlib.Path, process: subprocess.Popen) -> None:
    """Waits until a checkpoint begins to arrive in the store, or the process ends."""
    before = stored_steps(store)
    while process.poll() is None and not stored_steps(store) - before:
        time.sleep(0.002)


def main() -> None:
    """Runs both, and compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    draw = random.Random(given.seed)

    undisturbed = given.folder / "undisturbed"
    assert kill_runs.start(undisturbed).wait() == 0

    scratch, log = given.folder / "scratch", given.folder / "bucket.log"
    store = given.folder / "store"
    until_upload = 5.0  # seconds; then as long as the last session took
    kills: list[str] = []
    while len(kills) < given.kills:
        process, begun = start(f"whole://{store}", scratch, log), time.monotonic()
        anywhere = draw.random() < 1 / 3
        if anywhere:
            time.sleep(draw.uniform(0.1, 1.0) * until_upload)
        else:
            wait_for_upload(store, process)
            until_upload = time.monotonic() - begun
            time.sleep(draw.uniform(0.0, 0.3))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills.append("anywhere" if anywhere else "upload")
        if len(kills) % 2 == 0:
            shutil.rmtree(scratch, ignore_errors=True)
        time.sleep(2.5)  # the lease of the killed process runs out
    else:
        process = start(f"whole://{store}", scratch, log)
    assert process.wait() == 0, log.read_text()[-2000:]
    (found,) = [path for path in scratch.iterdir() if not path.name.endswith("-read")]
    different = kill_runs.compare(undisturbed, found)
    print(
        f"{len(kills)} kills of one run, {kills.count('upload')} of them in an upload; "
        f"different: {different or 'nothing'}"
    )
    sys.exit(bool(different) or len(kills) < given.kills)


if __name__ == "__main__":
    main()
