"""Three small stages on the recall game, the last of which overlaps."""

import dataclasses
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "e2e"))
import recall_experiment

from agentrl import config


def get_config() -> config.RunConfig:
    recall = recall_experiment.get_config()
    warm_start, reinforced = recall.stages
    stages = (
        dataclasses.replace(warm_start, num_iterations=12),
        dataclasses.replace(reinforced, num_iterations=5),
        dataclasses.replace(reinforced, name="overlap", overlap=True, num_iterations=6),
    )
    return dataclasses.replace(
        recall, name="three stages", stages=stages, token_hindsight=True
    )
