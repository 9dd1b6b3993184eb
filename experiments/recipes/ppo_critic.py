"""PPO with a critic: values by token, generalised advantages, a KL penalty in the loss.

  agentrl train recipes/ppo_critic --workdir=runs/ppo

Seen: 18.5 % [9.7, 32.6] of held-out goals (31 tasks, 4 samples; one seed) after 139 s on 2
CPU cores that had other work; 2026-11-27, commit 7d0a09c.

The critic is a linear head on the policy's own transformer and starts at zero. Groups
serve only to play a task more than once; `group_size=1` with more tasks works as well.
"""

import dataclasses

from agentrl import config
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """TextCraft, as in `one_environment`."""
    reinforce = config.StageConfig(
        name="ppo",
        mixture=small.mixture("textcraft"),
        num_iterations=10,
        rollout=dataclasses.replace(small.SHORT, tasks_per_iteration=32, group_size=4),
        algorithm=config.Ppo(
            gae_level="turn",
            updates_per_iteration=2,
            kl=config.KLConfig(coefficient=0.01),
        ),
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
    )
    settings = small.run("ppo_critic", small.warm_start("textcraft"), reinforce)
    model = dataclasses.replace(settings.model, critic=True)
    return dataclasses.replace(settings, model=model)
