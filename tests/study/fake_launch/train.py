"""Leaves a trained node: evaluations, metrics, a checkpoint.

FAKE_SECONDS: how long it takes. FAKE_FAILURES: stages that fail, such as `grpo_b`.
"""

import json
import os
import pathlib
import random
import sys
import time

import filelock

from agentrl.statistics import results

NUM_TASKS, SAMPLES = 12, 4


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
    supervised = stage["algorithm"]["name"] == "supervised"
    lines = [
        {
            "stage": stage["name"],
            "iteration": n,
            "time/total": 2.0,
            # A policy that solves nothing: no update has anything to train on.
            "time/update": 1.0 if supervised else 0.0,
            "learner/tokens": 500 if supervised else 0,
            "progress/tokens": 1000 * (n + 1),
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
    trained = [name for name, _ in stage["mixture"]["environments"]]
    for place, env in enumerate(stored["environments"]):
        if stored["evaluation"]["before_training"] and stage is stored["stages"][0]:
            before = {**stage, "name": "untrained", "num_iterations": 0}
            evaluate(workdir, stored, before, env, digest=str(place), good=False)
        evaluate(workdir, stored, stage, env, digest=str(place), good=env in trained)


def evaluate(workdir, stored, stage, env, *, digest, good):
    rate = 0.2 + 0.5 * (good and stage["algorithm"]["name"] != "supervised")
    draw = random.Random(f"{stage['name']} {env} {stored['seed']}")
    ease = random.Random(env)
    rates = [min(1.0, 2 * rate * ease.random()) for _ in range(NUM_TASKS)]
    success = tuple(
        tuple(draw.random() < chance for _ in range(SAMPLES)) for chance in rates
    )
    items = tuple(f"{env}_{n}" for n in range(NUM_TASKS))

    def rows(value):
        return tuple((value,) * SAMPLES for _ in items)

    steps = sum(s["num_iterations"] for s in stored["stages"])
    path = workdir / "episodes" / f"evaluation.{stage['name']}.{env}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        for item, row in zip(items, success, strict=True):
            for sample, solved in enumerate(row):
                episode = {
                    "stage": stage["name"],
                    "iteration": stage["num_iterations"],
                    "env": env,
                    "item_id": item,
                    "group": 0,
                    "sample": sample,
                    "policy_step": steps,
                    "ending": "solved" if solved else "max_turns",
                    "success": solved,
                    "score": float(solved),
                    "reward": float(solved),
                    "turns": [],
                    "final_observation": "",
                    "failures": [] if solved else ["timeout"],
                }
                file.write(json.dumps(episode) + "\n")
    results.EvaluationResult(
        stage=stage["name"],
        after_iteration=stage["num_iterations"],
        step=steps,
        env=env,
        split="test",
        tier=stored["evaluation"]["tier"],
        panel_version="1",
        panel_digest=digest,
        item_ids=items,
        success=success,
        score=tuple(tuple(map(float, row)) for row in success),
        turns=rows(2),
        tokens=rows(9),
    ).save(workdir)


if __name__ == "__main__":
    main()
