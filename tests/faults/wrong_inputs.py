r"""Gives commands wrong inputs, and prints what they say of each.

  python tests/faults/wrong_inputs.py --folder=/tmp/wrong
  python tests/faults/wrong_inputs.py --folder=/tmp/wrong --part=2/3   # of the inputs

Fields of each class of a configuration, files that are damaged, things that cannot be
reached, other commands. A line holds the input, the seconds until it was refused, the
files that it left behind, and the message. The last line counts; the exit code is 0 if
each was refused by a message without a traceback, and nothing was left behind or changed.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = HERE / "three_stages.py"

FIELDS = (
    "seed=-1",
    "seed=one",
    "sede=1",
    "save_every=0",
    "keep_checkpoints=0",
    "num_env_workers=0",
    "env_timeout_s=-1",
    "max_env_error_fraction=2",
    "tokenizer.vocab_size=5",
    "tokenizer.vocab_size=400",
    "tokenizer.few_shot=-1",
    "tokenizer.few_shot=30",
    "tokenizer={'kind': 'sentencepiece', 'path': '/nowhere'}",
    "tokenizer={'kind': 'huggingface', 'path': '/nowhere'}",
    "model.vocab_size=0",
    "model.num_heads=3",
    "model.head_dim=7",
    "model.init=induction",
    "learner.max_microbatches=0",
    "learner.rows_per_microbatch=3",
    "learner.row_tokens=8",
    "mesh.fsdp=7",
    "mesh.cpu_devices=0",
    "lora={'rank': 0}",
    "weights=/nowhere",
    "environments.recall.max_turns=0",
    "environments.recall.options={'nothing': 1}",
    "stages.recall.num_iterations=0",
    "stages.recall.rollout.group_size=-1",
    "stages.recall.rollout.temperature=0",
    "stages.recall.rollout.max_tokens=2",  # fewer than an observation has
    "stages.recall.optimizer.learning_rate=0",
    "stages.recall.algorithm.name=gpro",
    "stages.recall.algorithm.name=ppo",
    "stages.overlap.mixture.environments=(('recal', 1.0),)",
    "stages.overlap.mixture.subsets=('recall/al',)",
    "stages.overlap.mixture.split=tset",
    "stages.overlap.mixture.tier=hard",
    "evaluation.environments=('recal',)",
    "evaluation.subsets=('recall/al',)",
    "evaluation.samples=0",
    "evaluation.rollout.max_tokens=2",
    "evaluation.rollout.num_slots=7",
    "evaluation.tier_file=/nowhere",
    "model.precision.compute=float7",
    "model.rope_scaling={'kind': 'yarn', 'factor': 2.0}",
    "trainable=('nothing',)",
    "stages.recall.name=a/b",
    "stages.recall.max_turns=((3, 2),)",
    "stages.recall.optimizer.schedule=cosin",
    "stages.recall.algorithm.kl.coefficient=-1",
    "stages.recall.algorithm.clip=0.2",
    "stages.recall.rehearsal={'environments': [('recal', 1.0)]}",
    "stages.warm_start.algorithm.conversations=/nowhere",
    "stages.warm_start.carry_optimizer=True",
)
FLAGS = (
    "--config=/nowhere.py",
    f"--config={HERE / 'wrong_inputs.py'}",
    "--model=/nowhere",
    "--model=Nobody/Nothing-1B",
    "--start_from=/nowhere",
)
AGENTGYM = "agentrl.envs.adapters.agentgym.textcraft"
OPENENV = "agentrl.envs.adapters.openenv"
SERVED = (f"--config={HERE / 'served.py'}",)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """One wrong input; `{whole}` and `{new}` are a finished run and a new folder."""

    name: str
    arguments: tuple[str, ...]
    module: str = "train"
    environments: str = "recall=recall_env"
    code: int = 1  # that it ends with
    file_bytes: int | None = None  # limit of a file's size, as a full disk has it


UNREACHABLE = (
    Wrong("a workdir below a file", (f"--workdir={CONFIG}/run",)),
    Wrong("a disk that takes nothing", (), file_bytes=100),
    Wrong(
        "an environment's module",
        ("--set=num_env_workers=1",),
        environments="recall=no_such_module",
    ),
    Wrong("a server of AgentGym's", SERVED, environments=f"textcraft={AGENTGYM}"),
    Wrong("a server of OpenEnv's", SERVED, environments=f"openenv={OPENENV}"),
    Wrong("a server under another name", SERVED, environments=f"craft={AGENTGYM}"),
    Wrong(
        "a tenth host of three",
        ("--coordinator=127.0.0.1:9", "--num_hosts=3", "--host_index=9"),
    ),
    Wrong(
        "the coordinator",
        (
            *("--coordinator=127.0.0.1:9", "--num_hosts=3", "--host_index=1"),
            "--host_timeout_s=2",
        ),
        code=69,
    ),
)
OTHER_COMMANDS = (
    Wrong("no run", ("--checkpoint=/nowhere", "--out={new}"), "evaluate"),
    Wrong(
        "no checkpoint",
        ("--checkpoint={whole}/checkpoints/99", "--out={new}"),
        "evaluate",
    ),
    Wrong("env", ("--checkpoint={whole}", "--envs=recal", "--out={new}"), "evaluate"),
    Wrong("a full folder", ("--checkpoint={whole}", "--out={whole}"), "evaluate"),
    Wrong("no run", ("--checkpoint=/nowhere", "--to_hf={new}"), "convert"),
    Wrong("a full folder", ("--checkpoint={whole}", "--to_hf={whole}"), "convert"),
    Wrong("no run", ("--workdir=/nowhere",), "report"),
    Wrong("env", ("--checkpoint={whole}", "--env=recal", "--out={new}"), "calibrate"),
    Wrong("env", ("--env=recal",), "play"),
    Wrong("episode", ("--replay=/nowhere:1",), "play"),
    Wrong("experiment", ("--config=/nowhere.py", "--hbm_gib=80"), "plan"),
)


def run(workdir: pathlib.Path, *arguments: str) -> tuple[int, str, float]:
    """Exit code of a training, what was said on stderr, and the seconds until then."""
    return execute(Wrong("", arguments), workdir)


def execute(wrong: Wrong, workdir: pathlib.Path) -> tuple[int, str, float]:
    """Gives a command a wrong input; see `run`."""
    variables = {
        "AGENTRL_ENVS": wrong.environments,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
        "ITEMS": str(workdir.with_name("items.txt")),
    }
    command = [sys.executable, "-m", f"agentrl.launch.{wrong.module}"]
    if wrong.module == "train":
        command += [f"--config={CONFIG}", f"--workdir={workdir}"]
    places = {"new": workdir, "whole": workdir.with_name("whole")}

    def limit() -> None:
        if wrong.file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then write(2) fails
            sizes = (wrong.file_bytes, wrong.file_bytes)
            resource.setrlimit(resource.RLIMIT_FSIZE, sizes)

    given = (
        a.format(**places) if "{new}" in a or "{whole}" in a else a
        for a in wrong.arguments
    )
    began = time.monotonic()
    done = subprocess.run(
        [*command, *given],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    return done.returncode, done.stderr, time.monotonic() - began


def cut(path: pathlib.Path, share: float) -> None:
    """Leaves a share of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def tear(path: pathlib.Path) -> None:
    """Removes the second half of the third line."""
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2][: len(lines[2]) // 2] + "\n"
    path.write_text("".join(lines))


def flip_newest_checkpoint(workdir: pathlib.Path) -> None:
    """Changes a bit of the parameters that a run goes on from."""
    folder = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name))
    path = max((folder / "params").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut_newest(workdir: pathlib.Path, pattern: str) -> None:
    """Leaves half of a file of the newest checkpoint."""
    folder = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name))
    cut(next(folder.glob(pattern)), 0.5)


DAMAGES = {
    "run.json of 0 bytes": lambda w: cut(w / "run.json", 0),
    "run.json cut in half": lambda w: cut(w / "run.json", 0.5),
    "run.json of other JSON": lambda w: (w / "run.json").write_text("[1]\n"),
    "chat.json cut in half": lambda w: cut(w / "chat.json", 0.5),
    "tokenizer.model cut in half": lambda w: cut(w / "tokenizer.model", 0.5),
    "metrics.jsonl with a torn line": lambda w: tear(w / "metrics.jsonl"),
    "episodes with a torn line": lambda w: tear(w / "episodes" / "overlap.jsonl"),
    "an evaluation cut in half": lambda w: cut(
        w / "evaluations" / "overlap.recall.test.all.json", 0.5
    ),
    "a bit of the newest checkpoint": flip_newest_checkpoint,
    "progress of the newest checkpoint": lambda w: cut_newest(w, "progress/metadata"),
    "checksums of the newest checkpoint": lambda w: cut_newest(w, "checksums.json"),
    "another seed": lambda w: None,
}


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    """Content of all files but the lock, which a session leaves to the next."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def changed_files(before: dict[str, bytes], folder: pathlib.Path) -> list[str]:
    """Names of the files that are new, gone, or hold something else."""
    after = snapshot(folder)
    return [p for p in before | after if before.get(p) != after.get(p)]


def report(name: str, ended: bool, said: str, seconds: float, left: list[str]) -> bool:
    """Prints a line; returns whether all is as it should be."""
    lines = [line for line in said.splitlines() if re.match(r"launch\.\w+: ", line)]
    message = lines[-1] if lines else said.strip()[-200:]
    good = bool(ended and lines and "Traceback" not in said and not left)
    print(f"{'ok' if good else 'BAD':3} {seconds:5.1f} s | {name} | {left} | {message}")
    sys.stdout.flush()
    return good


def main() -> None:
    """Tries everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--part", default="1/1")
    options = parser.parse_args()
    folder: pathlib.Path = options.folder
    part, num_parts = map(int, options.part.split("/"))
    whole = folder / "whole"
    short = ("warm_start=3", "recall=3", "overlap=1")
    settings = [f"--set=stages.{s.replace('=', '.num_iterations=')}" for s in short]
    if not (whole / "report.html").exists():  # else an earlier command has made it
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "items.txt").write_text("textcraft_0\ntextcraft_1\n")
        assert run(whole, *settings)[0] == 0

    def give(wrong: Wrong) -> tuple[bool, float]:
        before, new = snapshot(folder), folder / "new"
        code, said, seconds = execute(wrong, new)
        name = f"{wrong.module}: {wrong.name}"
        ended = code == wrong.code
        good = report(name, ended, said, seconds, changed_files(before, folder))
        shutil.rmtree(new, ignore_errors=True)
        return good, seconds

    def go_on(
        name: str, damage: Callable[[pathlib.Path], object]
    ) -> tuple[bool, float]:
        workdir = folder / "damaged"
        shutil.copytree(whole, workdir)
        damage(workdir)
        before = snapshot(workdir)
        extra = ["--set=seed=1"] if name == "another seed" else []
        code, said, seconds = run(workdir, *settings, *extra)
        good = report(name, code == 1, said, seconds, changed_files(before, workdir))
        shutil.rmtree(workdir)
        return good, seconds

    arguments = (*(f"--set={field}" for field in FIELDS), *FLAGS)
    wrong = [*(Wrong(a, (a,)) for a in arguments), *UNREACHABLE, *OTHER_COMMANDS]
    tries = [functools.partial(give, one) for one in wrong]
    tries += [functools.partial(go_on, *one) for one in DAMAGES.items()]
    done = [attempt() for attempt in tries[part - 1 :: num_parts]]
    good, times = zip(*done, strict=True)
    print(
        f"{sum(good)} of {len(good)} refused in one message with nothing left behind; "
        f"median {statistics.median(times):.1f} s, longest {max(times):.1f} s"
    )
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
