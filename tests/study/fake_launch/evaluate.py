"""Leaves an evaluation with a drift that grows with the distance in steps.

FAKE_FAILURES: `drift` fails.
"""

import dataclasses
import os
import pathlib
import random
import sys

from agentrl.statistics import drift, results


def main():
    flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
    if "drift" in os.environ.get("FAKE_FAILURES", "").split(","):
        sys.exit("launch.evaluate: drift fails")
    checkpoint, out = pathlib.Path(flags["checkpoint"]), pathlib.Path(flags["out"])
    others = flags["compare_with"].split(",")
    leave(checkpoint, out, others, int(flags["samples"]))


def leave(checkpoint, out, others, samples):
    stored = results.load_all(checkpoint.parents[1])
    stages = {result.step: result.stage for result in stored}
    for result in stored:
        if result.step == int(checkpoint.name):
            found = []
            for other in others:
                step = 0 if other == "initial" else int(pathlib.Path(other).name)
                stage = results.UNTRAINED_STAGE if other == "initial" else stages[step]
                draw = random.Random(f"{result.stage} {result.env} {stage}")
                found.append(make_drift(result, other, stage, step, samples, draw))
            tables = {
                name: tuple(row[:samples] for row in getattr(result, name))
                for name in ("success", "score", "turns", "tokens")
            }
            dataclasses.replace(result, **tables, drifts=tuple(found)).save(out)


def make_drift(result, other, stage, step, samples, draw):
    def rows(mean):
        return tuple(
            tuple(mean * (0.5 + draw.random()) for _ in range(samples))
            for _ in result.item_ids
        )

    distance = 0.1 * (result.step - step)
    return drift.Drift(
        policy=other,
        stage=stage,
        step=step,
        k1=rows(distance),
        k3=rows(distance),
        entropy=rows(5.0),
    )


if __name__ == "__main__":
    main()
