r"""The whole system on a laptop: one small model, four stages, two real environments.

  python -m launch.train --config=experiments/demo/demo.py --workdir=runs/demo

A model of about one million parameters starts from random weights. It is warm-started on
demonstrations of text-only oracles, fine-tuned with GRPO on TextCraft, then on BabyAI,
then on a mixture of both, and evaluated on held-out tasks after every stage.
"""

from agentrl import config
from agentrl.models.config import ModelConfig
from envs import base

# Contexts are kept short, as befits the model: no recipes that do not help, no action
# list, which BabyAI would repeat with every observation.
ENVIRONMENTS = {
    "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=8),
    "babyai": base.EnvConfig(list_actions="never", max_turns=6),
}
ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=16,
    group_size=8,
    max_tokens=384,
    max_action_tokens=26,
    num_slots=32,
    append_buckets=(32, 128, 256),
    cache_buckets=(128, 256, 384),
)


def get_config() -> config.RunConfig:
    """The demo's configuration."""
    both = config.MixtureConfig(
        environments=(("textcraft", 1.0), ("babyai", 1.0)), tier="easy"
    )
    optimizer = config.OptimizerConfig(learning_rate=5e-4, warmup_steps=2)
    # As published, with clip-higher: each trajectory weighs the same, so that the long,
    # failed ones do not drown the short, solved ones.
    algorithm = config.AlgorithmConfig(name="grpo", clip_high=0.28)
    warm_start = config.StageConfig(
        name="warm_start",
        kind="warm_start",
        mixture=both,
        num_iterations=150,
        rollout=ROLLOUT,
        optimizer=config.OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
        warm_start=config.WarmStartConfig(
            demonstrations=150, episodes_per_step=40, thoughts=False
        ),
    )

    def reinforce(name: str, mixture: config.MixtureConfig) -> config.StageConfig:
        return config.StageConfig(
            name=name,
            mixture=mixture,
            num_iterations=20,
            rollout=ROLLOUT,
            algorithm=algorithm,
            optimizer=optimizer,
        )

    def only(env: str) -> config.MixtureConfig:
        return config.MixtureConfig(environments=((env, 1.0),), tier="easy")

    return config.RunConfig(
        name="demo",
        environments=ENVIRONMENTS,
        model=ModelConfig(
            vocab_size=1024, num_layers=3, mlp_size=512, tied_embeddings=False
        ),
        tokenizer=config.TokenizerConfig(vocab_size=1024),
        evaluation=config.EvaluationConfig(tier="easy", samples=4, rollout=ROLLOUT),
        learner=config.LearnerConfig(
            row_tokens=384, rows_per_microbatch=8, max_microbatches=16
        ),
        stages=(
            warm_start,
            reinforce("textcraft", only("textcraft")),
            reinforce("babyai", only("babyai")),
            reinforce("mixture", both),
        ),
        save_every=10,
    )
