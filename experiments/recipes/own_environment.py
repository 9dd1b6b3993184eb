"""Your own environment: one file, named in a variable, trained as any other.

  export AGENTRL_ENVS=switches=agentrl.experiments.recipes.switches
  agentrl play --env=switches --oracle=observational
  agentrl train recipes/own_environment --workdir=runs/own

Seen: 32.1 % [25.4, 39.7] of held-out games (random choice: 23.2 % [18.0, 29.4]; 4 samples,
one seed) after 183 s on 2 CPU cores that had other work; 2026-11-27, commit 7d0a09c with
40 iterations in place of its 8, after which it was at 22.3 %.

`switches.py` beside this file is the environment; docs/howto_env.md explains its parts,
and `python -m agentrl.envs.checks switches` checks that it keeps its promises.
"""

import dataclasses

from agentrl import config
from agentrl.envs import base
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """Demonstrations with one lamp to switch, then GRPO on two and three."""
    everything = small.mixture("switches", tier="all", subsets=())
    warm_start = dataclasses.replace(
        small.warm_start("switches", num_iterations=60),
        mixture=dataclasses.replace(everything, subsets=("switches/lamps_1",)),
    )
    reinforce = config.StageConfig(
        name="grpo",
        mixture=dataclasses.replace(
            everything, subsets=("switches/lamps_2", "switches/lamps_3")
        ),
        num_iterations=40,
        rollout=small.ROLLOUT,
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=5e-4, warmup_steps=2),
    )
    return small.run(
        "own_environment",
        warm_start,
        reinforce,
        vocab_size=384,  # the game has few words
        environments={"switches": base.EnvConfig()},
        evaluation=config.EvaluationConfig(
            subsets=("switches/lamps_2", "switches/lamps_3"),
            samples=4,
            rollout=small.ROLLOUT,
        ),
    )
