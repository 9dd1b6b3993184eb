"""Three small stages on the recall game, whose episodes go on; the last one overlaps."""

import dataclasses
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "e2e"))
import recall_experiment

from agentrl import config


def get_config() -> config.RunConfig:
    recall = recall_experiment.get_config()
    warm_start, reinforced = recall.stages
    # With few slots some episodes are half-way when enough groups are complete.
    few_slots = dataclasses.replace(reinforced.rollout, num_slots=8)
    going_on = dataclasses.replace(reinforced, rollout=few_slots, extra_groups=2)
    stages = (
        dataclasses.replace(warm_start, num_iterations=12),
        dataclasses.replace(going_on, num_iterations=5),
        dataclasses.replace(going_on, name="overlap", overlap=True, num_iterations=6),
    )
    return dataclasses.replace(
        recall, name="three stages", stages=stages, token_hindsight=True
    )
