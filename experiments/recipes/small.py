"""What the recipes share: a small model, its environments, and a warm start.

To copy a recipe to another model, replace `run`: `agentrl train FILE --model=...` brings
weights and tokenizer of a published one, and `agentrl suggest` the sizes that suit it.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import ModelConfig

ENVIRONMENTS = {
    "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=8),
    "babyai": base.EnvConfig(list_actions="never", max_turns=6),
}
# Tasks of other kinds than those that are demonstrated.
DEMONSTRATED = ("textcraft/depth_2", "babyai/Pickup", "babyai/ActionObjDoor")
TRAINED = ("textcraft/depth_1", "babyai/GoTo")
ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=16,
    group_size=8,
    max_tokens=256,
    max_action_tokens=26,
    num_slots=32,
    append_buckets=(32, 64, 128),
    cache_buckets=(128, 192, 256),
)
# TextCraft's tasks of one recipe are short: an episode that rambles fails sooner.
SHORT = dataclasses.replace(ROLLOUT, max_tokens=160, cache_buckets=(96, 160))


def mixture(*environments: str, **fields: Any) -> config.MixtureConfig:
    """Tasks to train on, of all named environments alike."""
    defaults: dict[str, Any] = {
        "environments": tuple((name, 1.0) for name in environments),
        "tier": "easy",
        "subsets": of(environments, TRAINED),
    }
    return config.MixtureConfig(**{**defaults, **fields})


def of(environments: Collection[str], subsets: Collection[str]) -> tuple[str, ...]:
    """The subsets that belong to some environments."""
    return tuple(s for s in subsets if s.partition("/")[0] in environments)


def warm_start(*environments: str, num_iterations: int = 80) -> config.StageConfig:
    """Demonstrations, which teach the form of an answer."""
    return config.StageConfig(
        name="warm_start",
        mixture=mixture(*environments, subsets=of(environments, DEMONSTRATED)),
        num_iterations=num_iterations,
        rollout=dataclasses.replace(ROLLOUT, max_tokens=384, cache_buckets=(384,)),
        optimizer=config.OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
        algorithm=config.Supervised(
            demonstrations=300,
            episodes_per_step=40,
            thoughts=False,
            # Under other names, too: the model is to copy names, not to know them.
            renamed_copies=(("textcraft", 8),) if "textcraft" in environments else (),
        ),
        evaluate_after=False,
    )


def run(
    name: str, *stages: config.StageConfig, vocab_size: int = 1024, **fields: Any
) -> config.RunConfig:
    """A run of the small model on two CPU cores.

    Args:
      name: of the run.
      *stages: of the run.
      vocab_size: as many pieces as the environments' text has, or fewer.
      **fields: of the configuration, in place of those here.
    """
    played = {
        env for stage in stages for env, _ in stage.mixture.environments
    } & ENVIRONMENTS.keys()
    defaults: dict[str, Any] = {
        "environments": {env: ENVIRONMENTS[env] for env in sorted(played)},
        "model": ModelConfig(
            vocab_size=vocab_size,
            num_layers=2,
            mlp_size=512,
            tied_embeddings=False,
            init="induction",
        ),
        "tokenizer": config.TokenizerConfig(vocab_size=vocab_size),
        "evaluation": config.EvaluationConfig(
            tier="easy",
            subsets=of(played, TRAINED),
            samples=4,
            rollout=ROLLOUT,
        ),
        "mesh": config.MeshConfig(cpu_devices=2),
        "learner": config.LearnerConfig(
            row_tokens=384, rows_per_microbatch=12, max_microbatches=32
        ),
    }
    return config.RunConfig(name=name, stages=stages, **{**defaults, **fields})
