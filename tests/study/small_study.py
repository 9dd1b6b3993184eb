"""A study whose nodes nobody trains in earnest: see fake_launch."""

import dataclasses
import json

import fake_run
from fake_launch import evaluate, train

from agentrl import config
from agentrl.envs import base
from agentrl.statistics import results
from agentrl.study import spec


def stage(name, env, **changes):
    made = fake_run.make_settings(2).stages[1]
    mixture = config.MixtureConfig(environments=((env, 1.0),))
    return dataclasses.replace(
        made, name=name, mixture=mixture, num_iterations=3, **changes
    )


def make_study(*, seeds=(0,), drift_samples=0, **changes):
    """Four nodes a seed: warm -> a, warm -> b, warm -> a -> b."""
    warm = stage("warm", "textcraft", algorithm=config.Supervised())
    a, b = stage("grpo_a", "textcraft"), stage("grpo_b", "babyai")
    run = dataclasses.replace(
        fake_run.make_settings(2),
        stages=(),
        environments={"textcraft": base.EnvConfig(), "babyai": base.EnvConfig()},
        **changes,
    )
    return spec.Study(
        name="small",
        base=run,
        cells=(
            spec.Cell(axis="across", name="textcraft", stages=(warm, a)),
            spec.Cell(axis="across", name="babyai", stages=(warm, b)),
            spec.Cell(axis="sequence", name="a>b", stages=(warm, a, b)),
        ),
        seeds=seeds,
        drift_samples=drift_samples,
    )


def leave_all(place, wanted):
    """Leaves every node as fake_launch does, without processes."""
    for node in wanted.nodes.values():
        place.prepare(node, wanted.nodes[node.parent] if node.parent else None)
        place.workdir(node).mkdir(exist_ok=True)
        stored = json.loads(place.beside(node, ".json").read_text())["config"]
        train.leave(place.workdir(node), stored, stored["stages"][-1])
        if place.lacks_drift(node):
            saved = place.workdir(node) / "checkpoints"
            steps = {r.stage: r.step for r in results.load_all(place.workdir(node))}
            others = [str(steps[name]) for name in dict.fromkeys(node.origins.values())]
            evaluate.leave(
                saved / str(steps[node.stage.name]),
                place.drift(node),
                others,
                node.drift_samples,
            )
