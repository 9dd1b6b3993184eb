"""One environment: a warm start on demonstrations, then GRPO.

  agentrl train recipes/one_environment --workdir=runs/one

Seen: 26.6 % [14.6, 43.4] of held-out goals (31 tasks, 4 samples; one seed) after 285 s on
2 CPU cores that had other work; 2026-11-27, commit 85278ae.
"""

from agentrl import config
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """TextCraft: goals with one recipe after demonstrations of two."""
    reinforce = config.StageConfig(
        name="grpo",
        mixture=small.mixture("textcraft"),
        num_iterations=12,
        rollout=small.SHORT,
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
    )
    return small.run("one_environment", small.warm_start("textcraft"), reinforce)
