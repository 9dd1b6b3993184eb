r"""Gives `launch.train` wrong inputs, and prints what it says of each.

  python tests/faults/wrong_inputs.py --folder=/tmp/wrong

A line holds the input, the seconds until it was refused, the files that it left behind,
and the message. The last line counts; the exit code is 0 if each was refused by a message
without a traceback, and nothing was left behind or changed.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

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
    "evaluation.rollout.max_tokens=5",
    "evaluation.rollout.num_slots=7",
    "evaluation.tier_file=/nowhere",
)
FLAGS = (
    "--config=/nowhere.py",
    f"--config={HERE / 'wrong_inputs.py'}",
    "--model=/nowhere",
    "--start_from=/nowhere",
)


def run(workdir: pathlib.Path, *arguments: str) -> tuple[int, str, float]:
    """Exit code, what was said on stderr, and the seconds until then."""
    variables = {
        "AGENTRL_ENVS": "recall=recall_env",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "agentrl.launch.train", f"--config={CONFIG}"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
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


DAMAGES = {
    "run.json of 0 bytes": lambda w: cut(w / "run.json", 0),
    "run.json cut in half": lambda w: cut(w / "run.json", 0.5),
    "run.json of other JSON": lambda w: (w / "run.json").write_text("[1]\n"),
    "chat.json cut in half": lambda w: cut(w / "chat.json", 0.5),
    "tokenizer.model cut in half": lambda w: cut(w / "tokenizer.model", 0.5),
    "metrics.jsonl with a torn line": lambda w: tear(w / "metrics.jsonl"),
    "a bit of the newest checkpoint": flip_newest_checkpoint,
    "another seed": lambda w: None,
}


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    """Content of all files but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def report(name: str, code: int, said: str, seconds: float, left: list[str]) -> bool:
    """Prints a line; returns whether all is as it should be."""
    lines = [line for line in said.splitlines() if "launch.train:" in line]
    message = lines[-1] if lines else said.strip()[-200:]
    good = bool(code == 1 and lines and "Traceback" not in said and not left)
    print(f"{'ok' if good else 'BAD':3} {seconds:5.1f} s | {name} | {left} | {message}")
    sys.stdout.flush()
    return good


def main() -> None:
    """Tries everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    good, times = [], []
    for argument in (*(f"--set={field}" for field in FIELDS), *FLAGS):
        workdir = folder / "new"
        code, said, seconds = run(workdir, argument)
        left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
        good.append(report(argument, code, said, seconds, left))
        times.append(seconds)
        shutil.rmtree(workdir, ignore_errors=True)
    whole = folder / "whole"
    short = ("warm_start=3", "recall=3", "overlap=1")
    settings = [f"--set=stages.{s.replace('=', '.num_iterations=')}" for s in short]
    assert run(whole, *settings)[0] == 0
    for name, damage in DAMAGES.items():
        workdir = folder / "damaged"
        shutil.copytree(whole, workdir)
        damage(workdir)
        before = snapshot(workdir)
        extra = ["--set=seed=1"] if name == "another seed" else []
        code, said, seconds = run(workdir, *settings, *extra)
        after = snapshot(workdir)
        changed = [p for p in before | after if before.get(p) != after.get(p)]
        good.append(report(name, code, said, seconds, changed))
        times.append(seconds)
        shutil.rmtree(workdir)
    print(
        f"{sum(good)} of {len(good)} refused in one message with nothing left behind; "
        f"median {statistics.median(times):.1f} s"
    )
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
