r"""Changes, extends and forks the demo, and compares it with the demo left alone.

  python tests/faults/changed_demo.py --folder=/tmp/changed
  python tests/faults/changed_demo.py --folder=/tmp/changed --only=mesh

The demo runs once, unless the folder holds it. Copies of it go back to a checkpoint
within the third stage and go on from there with other fields: those that leave results as
they are have to end with the same metrics, evaluations, episodes, events and parameters,
bit for bit; those that are free but for rounding with metrics that agree to rounding until
a draw between two tokens flips in a few episodes. A copy of the finished demo gets ten more
iterations, then a further stage with a further environment; another run starts from the
policy of its second stage. `--set=FIELD=VALUE` shortens the demo.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import kill_runs  # noqa: E402

from agentrl.checkpoints import checkpoint  # noqa: E402

FREE = {
    "workers": ("num_env_workers=1", "env_timeout_s=50"),
    "microbatches": ("learner.max_microbatches=40",),
    "saving": ("save_every=7", "keep_checkpoints=3"),
}
ROUNDING = {
    "memory": ("learner.rows_per_microbatch=6", "learner.max_microbatches=64",
               "learner.remat=full", "learner.logprob_chunk=1024"),
    "slots": ("stages.*.rollout.num_slots=16", "stages.*.rollout.num_cohorts=2"),
    "mesh": ("mesh.cpu_devices=1",),
    "together": ("num_env_workers=1", "learner.rows_per_microbatch=6",
                 "learner.max_microbatches=64", "stages.*.rollout.num_slots=16",
                 "mesh.cpu_devices=1"),
}  # fmt: skip
RELATIVE = 1e-3  # what counts as rounding in a metric
ZERO = 1e-2  # smaller values are compared as if they were as large
MOST_FLIPPED = 0.05  # of an iteration's episodes, by rounding
MORE_STAGES = """
import dataclasses
from agentrl.envs import base
from agentrl.experiments.demo import demo

def get_config():
    settings = demo.get_config()
    again = demo.reinforce("again", "textcraft", "recall", num_iterations=5)
    return dataclasses.replace(
        settings,
        environments={**settings.environments, "recall": base.EnvConfig()},
        stages=(*settings.stages, again),
    )
"""
OTHER_RUN = """
import dataclasses
from agentrl.experiments.demo import demo

def get_config():
    settings = demo.get_config()
    only = demo.reinforce("babyai", "babyai", num_iterations=5, learning_rate=5e-4)
    return dataclasses.replace(settings, name="fork", stages=(only,))
"""


def train(workdir: pathlib.Path, *arguments: str, experiment: str = "demo") -> None:
    """Trains, or goes on, to the end; ends this program if that fails."""
    command = [sys.executable, "-m", "agentrl.launch.train", experiment]
    variables = {
        "AGENTRL_ENVS": "recall=recall_env",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
    }
    with workdir.with_suffix(".log").open("a") as log:
        done = subprocess.run(
            [*command, f"--workdir={workdir}", *arguments],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
        )
    if done.returncode:
        sys.exit(f"exit code {done.returncode}; see {log.name}")


def go_back(whole: pathlib.Path, workdir: pathlib.Path) -> int:
    """Copies a finished run as it was at a checkpoint within its third stage.

    Returns:
      The iterations that it had recorded.
    """
    if workdir.exists():
        shutil.rmtree(workdir)
    shutil.copytree(whole, workdir)
    records = kill_runs.read_metrics(whole)
    places = {r["step"]: (r["stage_index"], n) for n, r in enumerate(records, start=1)}
    folder = workdir / checkpoint.FOLDER
    steps = checkpoint.list_steps(folder)
    step = next(step for step in steps if places[step][0] == 2)
    for later in steps[steps.index(step) + 1 :]:
        shutil.rmtree(folder / str(later))
    for path in (workdir / "evaluations").glob("*.json"):
        if json.loads(path.read_text())["step"] > step:
            path.unlink()
    return places[step][1]


def describe_difference(
    whole: pathlib.Path, workdir: pathlib.Path, first: int
) -> tuple[bool, str]:
    """How far two runs agree from iteration `first` on, and what parts them.

    Returns:
      Whether metrics agree to rounding until another token is drawn in a few episodes
      of an iteration; a sentence.
    """
    expected, found = (kill_runs.read_metrics(w)[first:] for w in (whole, workdir))
    differences = list(map(find_difference, expected, found))
    agreeing = next(
        (n for n, difference in enumerate(differences) if difference > RELATIVE),
        len(differences),
    )
    said = (
        f"{differences.count(0.0)} of {len(differences)} iterations bit for bit, the "
        f"first {agreeing} to rounding (largest difference "
        f"{max(differences[:agreeing], default=0.0):.1e})"
    )
    if agreeing == len(differences):
        return True, said
    stage, iteration = (expected[agreeing][k] for k in ("stage", "iteration"))
    one, other = (read_actions(w, stage, iteration) for w in (whole, workdir))
    flipped = sum(a != b for a, b in zip(one, other, strict=True))
    said += (
        f"; in iteration {iteration} of {stage} another token was drawn in {flipped} of "
        f"{len(one)} episodes"
    )
    return 0 < flipped <= MOST_FLIPPED * len(one), said


def find_difference(expected: dict, found: dict) -> float:
    """Largest difference of two lines of metrics, relative to what is no zero."""
    largest = 0.0
    for name, value in expected.items():
        if name.startswith("learner/"):
            continue  # shapes of packed batches
        other = found[name]
        if isinstance(value, float) and isinstance(other, float):
            size = max(abs(value), abs(other), ZERO)
            largest = max(largest, abs(value - other) / size)
        elif value != other:
            return math.inf
    return largest


def read_actions(workdir: pathlib.Path, stage: str, iteration: int) -> list[list[str]]:
    """What was answered in each episode of an iteration."""
    lines = (workdir / "episodes" / f"{stage}.jsonl").read_text().splitlines()
    return [
        [turn["action"] for turn in episode["turns"]]
        for episode in map(json.loads, lines)
        if episode["iteration"] == iteration
    ]


class Demo:
    """The undisturbed demo and what is done with copies of it."""

    def __init__(self, folder: pathlib.Path, overrides: list[str]):
        self.folder = folder
        self.whole = folder / "demo"
        self.overrides = [f"--set={override}" for override in overrides]
        if not (self.whole / "report.html").exists():
            train(self.whole, "--set=keep_checkpoints=100", *self.overrides)
        self.records = kill_runs.read_metrics(self.whole)

    def change(self, name: str) -> tuple[bool, str]:
        """Goes on with other fields."""
        workdir = self.folder / name
        first = go_back(self.whole, workdir)
        fields = (FREE | ROUNDING)[name]
        train(workdir, *self.overrides, "--set=keep_checkpoints=100",
              *(f"--set={field}" for field in fields))  # fmt: skip
        if name in FREE:
            different = kill_runs.compare(self.whole, workdir)
            return not different, f"differ: {different}" if different else "equal"
        return describe_difference(self.whole, workdir, first)

    def extend(self) -> tuple[bool, str]:
        """Ten more iterations of the last stage, then a further stage."""
        workdir = self.folder / "extended"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(self.whole, workdir)
        last = self.records[-1]
        count = last["iteration"] + 11
        longer = f"--set=stages.mixture.num_iterations={count}"
        given = [*self.overrides, "--set=keep_checkpoints=100", longer]
        train(workdir, *given)
        found = kill_runs.read_metrics(workdir)
        kept = found[: len(self.records)] == self.records
        before = f"mixture@{last['iteration'] + 1}"
        names = {
            path.name.split(".")[0] for path in (workdir / "evaluations").glob("*.json")
        }
        more = self.folder / "more_stages.py"
        more.write_text(MORE_STAGES)
        train(workdir, *given, experiment=str(more))
        again = kill_runs.read_metrics(workdir)[len(found) :]
        changes = json.loads((workdir / "run.json").read_text())["changes"]
        good = (
            kept
            and len(found) == len(self.records) + 10
            and {before, "mixture"} <= names
            and [record["stage"] for record in again] == ["again"] * 5
            and "env/recall/success" in again[-1]
            and len(changes) == 2
        )
        return good, (
            f"{len(self.records)} iterations {'as before' if kept else 'CHANGED'}, "
            f"{len(found) - len(self.records)} and {len(again)} more; evaluations "
            f"{sorted(names)}; {len(changes)} changes in run.json, the last of "
            f"{[field['field'] for field in changes[-1]['fields']]}"
        )

    def fork(self) -> tuple[bool, str]:
        """Another run from the policy of the second stage."""
        workdir = self.folder / "fork"
        shutil.rmtree(workdir, ignore_errors=True)
        step = max(r["step"] for r in self.records if r["stage"] == "textcraft")
        source = self.whole / checkpoint.FOLDER / str(step)
        other = self.folder / "other_run.py"
        other.write_text(OTHER_RUN)
        train(workdir, f"--start_from={source}", experiment=str(other))
        begun = json.loads((workdir / "run.json").read_text())["config"]["start_from"]
        name = "tokenizer.model"
        same = (workdir / name).read_bytes() == (self.whole / name).read_bytes()
        # The demo's own third stage begins with this policy, on tasks like these.
        own = next(r for r in self.records if r["stage"] == "babyai")
        first = kill_runs.read_metrics(workdir)[0]
        measure = "rollout/valid_action_fraction"
        near = abs(first[measure] - own[measure]) < 0.1
        return begun.startswith(f"{source}#") and same and near, (
            f"started from {begun}; {measure} {first[measure]:.3f} in its first iteration "
            f"and {own[measure]:.3f} in the demo's after that stage"
        )


def main() -> None:
    """Does what was asked for, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--set", action="append", default=[], help="of all commands")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    demo = Demo(folder, options.set)
    tries: dict[str, Callable[[], tuple[bool, str]]] = {
        name: lambda name=name: demo.change(name) for name in (*FREE, *ROUNDING)
    }
    tries |= {"extend": demo.extend, "fork": demo.fork}
    good = True
    for name in options.only.split(",") if options.only else tries:
        right, said = tries[name]()
        good &= right
        print(f"{'ok' if right else 'BAD':3} | {name} | {said}", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
