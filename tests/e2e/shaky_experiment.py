"""One iteration on a game whose test tasks break while the file BROKEN_IF exists."""

import dataclasses
import os

import recall_experiment

from agentrl import config
from agentrl.envs import base


def get_config() -> config.RunConfig:
    recall = recall_experiment.get_config()
    stage = config.StageConfig(
        name="shaky",
        mixture=config.MixtureConfig(environments=(("shaky", 1.0),)),
        num_iterations=1,
        rollout=recall_experiment.ROLLOUT,
    )
    options = {"broken_if": os.environ["BROKEN_IF"]}
    return dataclasses.replace(
        recall,
        name="shaky",
        environments={"shaky": base.EnvConfig(options=options)},
        tokenizer=config.TokenizerConfig(kind="bytes"),
        evaluation=dataclasses.replace(recall.evaluation, tasks=5),
        stages=(stage,),
    )
