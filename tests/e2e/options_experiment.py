"""Two real environments with options of their own: to test what a run stores of them."""

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import ModelConfig

ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=4,
    group_size=4,
    num_slots=16,
    max_tokens=256,
    max_action_tokens=20,
    append_buckets=(64, 128),
    cache_buckets=(256,),
)


def get_config() -> config.RunConfig:
    mixture = config.MixtureConfig(
        environments=(("textcraft", 1.0), ("babyai", 1.0)), tier="easy"
    )
    return config.RunConfig(
        name="options",
        environments={
            "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=8),
            "babyai": base.EnvConfig(list_actions="never", max_turns=4),
        },
        model=ModelConfig(
            vocab_size=512,
            hidden_size=64,
            num_layers=2,
            mlp_size=128,
            tied_embeddings=False,
            init="induction",
        ),
        tokenizer=config.TokenizerConfig(vocab_size=512),
        evaluation=config.EvaluationConfig(tasks=6, samples=2, rollout=ROLLOUT),
        learner=config.LearnerConfig(
            row_tokens=256, rows_per_microbatch=8, max_microbatches=8
        ),
        save_every=100,
        stages=(
            config.StageConfig(
                name="warm_start",
                mixture=mixture,
                num_iterations=12,
                rollout=ROLLOUT,
                optimizer=config.OptimizerConfig(learning_rate=3e-3),
                algorithm=config.Supervised(
                    demonstrations=64, thoughts=False, episodes_per_step=16
                ),
                evaluate_after=False,
            ),
            config.StageConfig(
                name="both",
                mixture=mixture,
                num_iterations=2,
                rollout=ROLLOUT,
                max_turns=((0, 3), (1, 5)),
            ),
        ),
    )
