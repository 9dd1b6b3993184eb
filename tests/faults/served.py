"""GRPO on the environment that AGENTRL_ENVS names, on the server at SERVER.

Without that variable it is an address where nobody is at home.
"""

import dataclasses
import os
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "e2e"))
import recall_experiment

from agentrl import config
from agentrl.envs import base


def get_config() -> config.RunConfig:
    name = os.environ["AGENTRL_ENVS"].partition("=")[0]
    server = os.environ.get("SERVER", "http://127.0.0.1:9")
    options: dict[str, str | int] = {"server": server, "timeout_s": 2}
    if name == "textcraft":  # AgentGym's servers have no lists of their tasks
        options |= {
            f"{split}_items": os.environ["ITEMS"] for split in ("train", "test")
        }
    stage = config.StageConfig(
        name="grpo",
        mixture=config.MixtureConfig(environments=((name, 1.0),)),
        num_iterations=2,
        rollout=recall_experiment.ROLLOUT,
    )
    return dataclasses.replace(
        recall_experiment.get_config(),
        tokenizer=config.TokenizerConfig(kind="bytes"),  # no oracle to learn words from
        environments={name: base.EnvConfig(options=options)},
        stages=(stage,),
    )
