"""A study on the recall game: two cells that share their warm start."""

import dataclasses
import pathlib
import sys

from agentrl import config
from agentrl.study import spec

sys.path.append(str(pathlib.Path(__file__).parents[1] / "e2e"))

import recall_experiment


def get_study(scale, environments):
    run = recall_experiment.get_config()
    warm_start, recall = (
        dataclasses.replace(stage, num_iterations=count)
        for stage, count in zip(run.stages, (4, 3), strict=True)
    )
    more = dataclasses.replace(
        recall,
        name="more",
        carry_optimizer=True,
        algorithm=config.Grpo(kl=config.KLConfig(coefficient=0.01)),
    )
    evaluation = dataclasses.replace(run.evaluation, before_training=True)
    return spec.Study(
        name="recall",
        base=dataclasses.replace(run, stages=(), evaluation=evaluation),
        cells=(
            spec.Cell(axis="across", name="recall", stages=(warm_start, recall)),
            spec.Cell(
                axis="sequence", name="recall>more", stages=(warm_start, recall, more)
            ),
        ),
        seeds=(0,),
    )
