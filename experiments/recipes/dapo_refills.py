"""DAPO with refills: groups without a signal are replaced by others before the update.

  agentrl train recipes/dapo_refills --workdir=runs/dapo

Seen: 14.5 % [7.5, 26.4] of held-out goals (31 tasks, 4 samples; one seed) after 90 s on 2
CPU cores that had other work; 2026-11-27, commit 7d0a09c.

`rollout/refills` says how many rounds were played, `rollout/groups_missing` how many
groups are still without a signal after them. Rounds cost time: below half of the groups
without a signal (`rollout/zero_variance_groups`) larger iterations are simpler.
"""

from agentrl import config
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """TextCraft, as in `one_environment`, with half of the tasks and two refills."""
    reinforce = config.StageConfig(
        name="dapo",
        mixture=small.mixture("textcraft"),
        num_iterations=8,
        rollout=small.SHORT,
        # A truncated episode is no evidence against its first steps: masked, as published
        # for answers that were cut off.
        algorithm=config.Dapo(max_refills=2, on_max_tokens="mask"),
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
    )
    return small.run("dapo_refills", small.warm_start("textcraft"), reinforce)
