r"""Kills a run of three stages again and again, and compares what it ends with.

  python tests/faults/kill_runs.py --kills=30 --folder=/tmp/killed --seed=0
  python tests/faults/kill_runs.py --kills=10 --folder=/tmp/killed --signal=TERM

One run is left alone; a later command with the same folder finds it there. Others get up
to five signals each, at random moments: a third of them within a second of the beginning
of a save. Each is then let to its end, and its metrics (times apart), evaluations,
episodes, parameters and tensorboard events are compared with those of the run that nobody
disturbed, bit for bit. After SIGTERM and SIGINT, which go to the whole process group as a
launcher's and a terminal's do, the newest checkpoint has to be of the last iteration that
was recorded, and nothing may have printed a traceback.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from tensorboardX.proto import event_pb2

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from agentrl import config, errors, types  # noqa: E402
from agentrl.checkpoints import checkpoint  # noqa: E402
from agentrl.experiment import files  # noqa: E402
from agentrl.loggers import tensorboard  # noqa: E402
from agentrl.models import transformer  # noqa: E402
from agentrl.parallel import sharding  # noqa: E402
from agentrl.run import parameters  # noqa: E402

KILLS_A_RUN = 5
TIMING = ("time/", "wall_time", "perf/")
# What a run ends with: before it listens, a signal does what it does to any process.
CODES = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (errors.INTERRUPTED_CODE, -signal.SIGTERM),
    signal.SIGINT: (errors.INTERRUPTED_CODE, -signal.SIGINT),
}


def start(workdir: pathlib.Path) -> subprocess.Popen:
    """Starts or continues the run in `workdir`."""
    variables = {
        "AGENTRL_ENVS": "recall=recall_env",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "agentrl.launch.train", f"--workdir={workdir}"]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(
            [*command, f"--config={HERE / 'three_stages.py'}"],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def wait_for_save(workdir: pathlib.Path, process: subprocess.Popen) -> None:
    """Waits until a save begins, or the process ends."""
    folder = workdir / checkpoint.FOLDER

    def names() -> set[str]:
        return set(os.listdir(folder)) if folder.is_dir() else set()

    before = names()
    while process.poll() is None and not names() - before:
        time.sleep(0.002)


def disturb(
    workdir: pathlib.Path,
    rng: random.Random,
    *,
    count: int,
    seconds: float,
    number: int,
) -> list[str]:
    """Sends a run up to `count` signals, then lets it end.

    Returns:
      What each signal met: `save` (within a second of one) or `anywhere`.
    """
    done = []
    log = workdir.parent / f"{workdir.name}.log"
    for _ in range(count):
        process = start(workdir)
        at_save = rng.random() < 1 / 3
        if at_save:
            wait_for_save(workdir, process)
            time.sleep(rng.random())
        else:
            time.sleep(rng.uniform(0.1, 1) * seconds / 2)
        if process.poll() is None:
            os.killpg(process.pid, number)
            done.append("save" if at_save else "anywhere")
        code = process.wait()
        expected = CODES[number]
        assert code in (0, *expected), f"{workdir}: exit code {code}; see {log}"
        if code == errors.INTERRUPTED_CODE:
            check_nothing_lost(workdir)
        if code == 0:
            break
    code = start(workdir).wait()
    assert code == 0, f"{workdir}: exit code {code} at the end; see {log}"
    assert "Traceback" not in log.read_text(errors="replace"), f"a traceback; see {log}"
    return done


def check_nothing_lost(workdir: pathlib.Path) -> None:
    """Raises if an iteration was recorded that the newest checkpoint is not of."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        return
    last = json.loads(lines[-1])
    steps = checkpoint.list_steps(workdir / checkpoint.FOLDER)
    assert max(steps, default=0) == last["step"], f"{workdir}: {steps}, {last}"


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """Lines of `metrics.jsonl` without what depends on time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(TIMING)}
        for line in lines
    ]


def read_files(workdir: pathlib.Path, pattern: str) -> dict[str, bytes]:
    """Content of files by name."""
    return {path.name: path.read_bytes() for path in workdir.glob(pattern)}


def read_params(workdir: pathlib.Path) -> types.PyTree:
    """Parameters of the newest checkpoint."""
    settings = files.read_run(workdir)
    mesh = sharding.make_mesh(config.MeshConfig())
    model = transformer.Model(settings.model)
    like = parameters.Parameters(settings, model, mesh).abstract
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        assert step is not None
        return jax.device_get(checkpoints.restore_params(step, like))


def read_events(workdir: pathlib.Path) -> list[tuple[str, int, float]]:
    """Scalars as tensorboard shows them: each file purges what is repeated later."""
    shown: list[tuple[str, int, float]] = []
    for path in sorted(
        (workdir / tensorboard.FOLDER).glob("events.*"),
        key=lambda p: int(p.name.split(".")[-1]),
    ):
        content = path.read_bytes()
        while len(content) > 12:
            length = int.from_bytes(content[:8], "little")
            if len(content) < length + 16:
                break  # torn by the kill
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == event.session_log.START:
                shown = [entry for entry in shown if entry[1] < event.step]
            shown += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return sorted(entry for entry in shown if not entry[0].startswith(TIMING))


def compare(expected: pathlib.Path, found: pathlib.Path) -> list[str]:
    """What differs between two runs that should be equal."""
    readers = {
        "metrics": read_metrics,
        "evaluations": lambda w: read_files(w, "evaluations/*.json"),
        "episodes": lambda w: read_files(w, "episodes/*.jsonl"),
        "events": read_events,
    }
    different = [
        name for name, read in readers.items() if read(expected) != read(found)
    ]
    equal = jax.tree.map(np.array_equal, read_params(expected), read_params(found))
    if not all(jax.tree.leaves(equal)):
        different.append("parameters")
    return different


def main() -> None:
    """Runs everything and prints one line for each run that was disturbed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    # A shell that starts this in the background has it ignored, and so would the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    number = signal.Signals[f"SIG{options.signal}"]
    rng = random.Random(options.seed)
    whole = options.folder / "undisturbed"
    seconds = run_undisturbed(whole)
    met: list[str] = []
    num_equal = num_runs = 0
    while len(met) < options.kills:
        workdir = options.folder / f"{options.signal}{options.seed}.{num_runs}"
        count = min(rng.randint(1, KILLS_A_RUN), options.kills - len(met))
        began = time.monotonic()
        found = disturb(workdir, rng, count=count, seconds=seconds, number=number)
        different = compare(whole, workdir)
        num_runs, met = num_runs + 1, met + found
        num_equal += not different
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{workdir.name}: {found}: {different or 'equal'} ({took})", flush=True)
    print(
        f"{len(met)} signals SIG{options.signal} in {num_runs} runs, "
        f"{met.count('save')} of them within a second of a save; "
        f"{num_equal} of {num_runs} equal"
    )
    sys.exit(num_equal != num_runs)


def run_undisturbed(workdir: pathlib.Path) -> float:
    """Lets a run to its end unless it is there; returns the seconds that it took."""
    took = workdir.with_suffix(".seconds")
    if not took.exists():
        began = time.monotonic()
        assert start(workdir).wait() == 0
        took.write_text(f"{time.monotonic() - began:.0f}")
    print(f"undisturbed: {took.read_text()} s", flush=True)
    return float(took.read_text())


if __name__ == "__main__":
    main()
