r"""Kills a run whose working directory lies in a store, and compares what it ends with.

  python tests/faults/bucket_runs.py --kills=10 --folder=/tmp/bucket_runs --seed=0

The store is a folder under the rules of object stores: objects appear whole, or not at all.
After every second kill the local copy is removed, as on another machine. At the end the
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
            [sys.executable, "-c", TRAIN, config, f"--workdir={url}"],
            env=os.environ | variables,
            stdout=out,
            stderr=out,
            process_group=0,
        )


def kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """Kills a run and its workers after a while; False if it ended by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


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
    begun = time.monotonic()
    assert kill_runs.start(undisturbed).wait() == 0
    length = time.monotonic() - begun

    scratch, log = given.folder / "scratch", given.folder / "bucket.log"
    url = f"whole://{given.folder / 'store'}"
    kills = 0
    while kills < given.kills:
        process = start(url, scratch, log)
        if not kill_after(process, draw.uniform(0.3, 0.6) * length):
            break
        kills += 1
        if kills % 2 == 0:
            shutil.rmtree(scratch, ignore_errors=True)
        time.sleep(2.5)  # the lease of the killed process runs out
    else:
        process = start(url, scratch, log)
    assert process.wait() == 0, log.read_text()[-2000:]
    (found,) = [path for path in scratch.iterdir() if not path.name.endswith("-read")]
    different = kill_runs.compare(undisturbed, found)
    print(f"{kills} kills; different: {different or 'nothing'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
