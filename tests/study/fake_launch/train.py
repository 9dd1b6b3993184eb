"""Leaves a trained node: evaluations, metrics, a checkpoint.

FAKE_SECONDS: how long it takes. FAKE_FAILURES: stages that fail, such as `grpo_b`.
"""

import json
import os
import pathlib
import sys
import time

import filelock

from agentrl.statistics import results

ITEMS = tuple(f"{n}" for n in range(4))


def rows(value):
    return tuple((value, value) for _ in ITEMS)


def main():
    flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
    workdir = pathlib.Path(flags["workdir"])
    stored = json.loads(pathlib.Path(flags["config"]).read_text())["config"]
    stage = stored["stages"][-1]
    workdir.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(workdir / ".lock", timeout=0):
        with (workdir.parent / "trained").open("a") as file:
            file.write(f"{workdir.name}\n")
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if stage["name"] in os.environ.get("FAKE_FAILURES", "").split(","):
            sys.exit(f"launch.train: {stage['name']} fails")
        leave(workdir, stored, stage)


def leave(workdir, stored, stage):
    steps = sum(s["num_iterations"] for s in stored["stages"])
    lines = [
        {
            "stage": stage["name"],
            "iteration": n,
            "time/total": 2.0,
            "wall_time": time.time() - 2 * (stage["num_iterations"] - n),
        }
        for n in range(stage["num_iterations"])
    ]
    with (workdir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    (workdir / "run.json").write_text(json.dumps({"config": stored}))
    saved = workdir / "checkpoints" / str(steps)
    saved.mkdir(parents=True)
    (saved / "checksums.json").write_text("{}")
    for place, env in enumerate(stored["environments"]):
        trained = [name for name, _ in stage["mixture"]["environments"]]
        solved = env in trained and stage["algorithm"]["name"] != "supervised"
        results.EvaluationResult(
            stage=stage["name"],
            after_iteration=stage["num_iterations"],
            step=steps,
            env=env,
            split="test",
            tier="all",
            panel_version="1",
            panel_digest=f"{place}",
            item_ids=tuple(f"{env}_{item}" for item in ITEMS),
            success=rows(solved),
            score=rows(float(solved)),
            turns=rows(2),
            tokens=rows(9),
        ).save(workdir)


if __name__ == "__main__":
    main()
