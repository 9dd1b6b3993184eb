"""A curriculum: the turn limit grows within a stage, and a harder stage follows.

  agentrl train recipes/curriculum --workdir=runs/curriculum

Seen: 49.4 % [34.8, 64.1] of held-out tasks after `near`, 50.0 % [35.4, 64.6] after
`fetching`, random choice 44.4 % (40 tasks, 4 samples; one seed), 280 s on 2 CPU cores that
had other work; 2026-11-27, commit 85278ae. Whether the curriculum adds anything to as many
iterations without it, one run cannot say.

`max_turns` is (from this iteration, turn limit). `mixture.tier` with a `tier_file` of
`agentrl calibrate` makes stages by how often a policy solves a task.
"""

import dataclasses

from agentrl import config
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """BabyAI: going somewhere in few turns, in more, then fetching things, too."""
    near = config.StageConfig(
        name="near",
        mixture=small.mixture("babyai"),
        num_iterations=8,
        max_turns=((0, 3), (4, 6)),
        rollout=small.ROLLOUT,
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=5e-4, warmup_steps=2),
    )
    fetching = dataclasses.replace(
        near,
        name="fetching",
        mixture=small.mixture("babyai", subsets=("babyai/GoTo", "babyai/Pickup")),
        max_turns=(),
        num_iterations=4,
        carry_optimizer=True,
        optimizer=config.OptimizerConfig(learning_rate=5e-4),
    )
    stages = (small.warm_start("babyai"), near, fetching)
    return small.run("curriculum", *stages, vocab_size=512)
