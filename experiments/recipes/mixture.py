"""A mixture of environments, drawn more often where the policy succeeds less.

  agentrl train recipes/mixture --workdir=runs/mixture

Seen: 4.0 % [1.2, 12.7] of TextCraft's held-out goals and 20.6 % [12.2, 32.7] of BabyAI's
tasks, of which random choice solves 44.4 % (4 samples, one seed), after 178 s on
2 CPU cores that had other work; 2026-11-27, commit 7d0a09c. So short a run shows the
settings; `experiments/demo` has a mixture that learns, `experiments/generalization`
compares them.

`kind="fixed"` draws by the weights alone; `"tempered"` flattens them. GRPO compares the
episodes of one task only, so returns of environments with other scales do not mix;
`normalize_per_environment` also gives each of them the same share of the gradient.
"""

from agentrl import config
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """TextCraft and BabyAI in one stage."""
    reinforce = config.StageConfig(
        name="mixture",
        mixture=small.mixture("textcraft", "babyai", kind="adaptive"),
        num_iterations=8,
        rollout=small.ROLLOUT,
        algorithm=config.Grpo(clip_high=0.28, normalize_per_environment=True),
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
    )
    return small.run("mixture", small.warm_start("textcraft", "babyai"), reinforce)
