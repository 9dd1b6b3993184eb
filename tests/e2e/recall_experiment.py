"""Two small stages on the recall game: to test the loop end to end."""

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import ModelConfig

ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=4,
    group_size=4,
    num_slots=16,
    num_cohorts=2,
    max_tokens=64,
    max_action_tokens=12,
    append_buckets=(16,),
    cache_buckets=(32, 64),
)


def get_config() -> config.RunConfig:
    mixture = config.MixtureConfig(environments=(("recall", 1.0),))
    return config.RunConfig(
        name="recall",
        environments={"recall": base.EnvConfig()},
        model=ModelConfig(
            vocab_size=320, hidden_size=32, num_layers=2, head_dim=8, mlp_size=64
        ),
        tokenizer=config.TokenizerConfig(vocab_size=300),
        evaluation=config.EvaluationConfig(samples=4, rollout=ROLLOUT),
        learner=config.LearnerConfig(
            row_tokens=64, rows_per_microbatch=8, max_microbatches=3
        ),
        mesh=config.MeshConfig(cpu_devices=2),
        save_every=2,
        stages=(
            config.StageConfig(
                name="warm_start",
                mixture=mixture,
                num_iterations=30,
                rollout=ROLLOUT,
                optimizer=config.OptimizerConfig(learning_rate=5e-3),
                algorithm=config.Supervised(thoughts=False, episodes_per_step=16),
            ),
            config.StageConfig(
                name="recall",
                mixture=mixture,
                num_iterations=6,
                rollout=ROLLOUT,
                optimizer=config.OptimizerConfig(learning_rate=1e-3),
            ),
        ),
    )
