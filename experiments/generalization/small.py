"""Scales of a small pretrained language model with low-rank adapters."""

import dataclasses
from collections.abc import Sequence

from agentrl import config
from agentrl.envs import base
from agentrl.experiments.generalization import laptop, scale
from agentrl.models.model_config import LoraConfig, Precision
from agentrl.pretrained import presets

_SMALL = {
    "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=8),
    "babyai": base.EnvConfig(list_actions="never", max_turns=8),
    "alfworld": base.EnvConfig(list_actions="never", max_turns=15),
    "webshop": base.EnvConfig(options={"page_size": 3}, max_turns=8),
    "searchqa": base.EnvConfig(options={"top_k": 1}, max_turns=4),
}
_SMALL_TOKENS = {
    "textcraft": 384,
    "babyai": 768,
    "alfworld": 768,
    "webshop": 1536,
    "searchqa": 768,
}


def _small_room(environments: Sequence[str]) -> config.RolloutConfig:
    longest = max(_SMALL_TOKENS[env] for env in environments)
    return config.RolloutConfig(
        tasks_per_iteration=16,
        group_size=8,
        max_tokens=longest,
        max_action_tokens=48,
        num_slots=64,
        append_buckets=(32, 128, 512),
        cache_buckets=tuple(n for n in (384, 768, 1536) if n <= longest),
        row_buckets=(16,),
    )


def small(environments: tuple[str, ...]) -> scale.Scale:
    """Returns the scale of a study on one GPU."""
    everything = _small_room(environments)
    evaluation = config.EvaluationConfig(
        tasks=48,
        stratify="tier",
        samples=8,
        before_training=True,
        rollout=everything,
        rollouts={env: _small_room((env,)) for env in environments},
    )
    return scale.Scale(
        base=config.RunConfig(
            name="small",
            stages=(),
            environments={env: _SMALL[env] for env in environments},
            model=presets.get("smollm2-135m"),
            lora=LoraConfig(rank=16, alpha=32.0),
            tokenizer=config.TokenizerConfig(frame="bare"),
            evaluation=evaluation,
            mesh=config.MeshConfig(cpu_devices=2),
            learner=config.LearnerConfig(
                row_tokens=everything.max_tokens,
                rows_per_microbatch=2,
                max_microbatches=256,
            ),
            keep_checkpoints=1,
        ),
        warm_start=config.StageConfig(
            name="warm_start",
            mixture=config.MixtureConfig(
                environments=tuple((env, 1.0) for env in environments), tier="easy"
            ),
            num_iterations=20 * len(environments),
            rollout=everything,
            optimizer=config.OptimizerConfig(learning_rate=5e-4, warmup_steps=5),
            algorithm=config.Supervised(
                demonstrations=256, episodes_per_step=16, thoughts=False
            ),
        ),
        room=_small_room,
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=2e-4, warmup_steps=2),
        num_iterations=40,
        tier="easy",
        trained={},
        difficulty={env: {} for env in environments},  # the structural tiers
        difficulty_evaluation=evaluation,
        listed={"babyai": 2},
        note=(
            "Small scale: a pretrained language model with low-rank adapters, "
            "warm-started on demonstrations of the easy tier; panels hold both tiers."
        ),
    )


# Small, on CPUs: the same model and adapters, with episodes for a few hours of two cores.
# Kinds of tasks for demonstration and for reinforcement are the laptop scale's.

_SMALL_CPU_TURNS = {
    "textcraft": 6,
    "babyai": 6,
    "alfworld": 10,
    "webshop": 6,
    "searchqa": 3,
}
_SMALL_CPU_TOKENS = {
    "textcraft": 288,
    "babyai": 384,
    "alfworld": 640,
    "webshop": 1280,
    "searchqa": 640,
}


def _small_cpu_room(environments: Sequence[str]) -> config.RolloutConfig:
    longest = max(_SMALL_CPU_TOKENS[env] for env in environments)
    return config.RolloutConfig(
        tasks_per_iteration=8,
        group_size=6,
        max_tokens=longest,
        max_action_tokens=40 if {"webshop", "searchqa"} & {*environments} else 32,
        num_slots=48,
        append_buckets=(32, 256),
        cache_buckets=(longest,),
        row_buckets=(12,),
    )


def _small_cpu_base(
    base_run: config.RunConfig, environments: Sequence[str]
) -> config.RunConfig:
    everything = _small_cpu_room(environments)
    return dataclasses.replace(
        base_run,
        name="small_cpu",
        environments={
            env: dataclasses.replace(settings, max_turns=_SMALL_CPU_TURNS[env])
            for env, settings in base_run.environments.items()
        },
        # Recent CPUs multiply bfloat16 in hardware, a third faster here; others are slower
        # than in float32.
        model=dataclasses.replace(
            base_run.model, precision=Precision(compute="bfloat16")
        ),
        evaluation=dataclasses.replace(
            base_run.evaluation,
            tier="easy",
            stratify="",
            subsets=scale.subsets_of(laptop.TRAINED, environments),
            tasks=24,
            samples=4,
            rollout=everything,
            rollouts={env: _small_cpu_room((env,)) for env in environments},
        ),
        mesh=config.MeshConfig(cpu_devices=1),  # a worker for each core
        learner=config.LearnerConfig(
            row_tokens=everything.max_tokens, rows_per_microbatch=2, max_microbatches=48
        ),
        num_env_workers=1,
    )


def small_cpu(environments: tuple[str, ...]) -> scale.Scale:
    """Returns the small scale with episodes for a few hours of two cores."""
    made = small(environments)
    base_run = _small_cpu_base(made.base, environments)
    assert made.warm_start is not None
    warm_start = dataclasses.replace(
        made.warm_start,
        num_iterations=10 * len(environments),
        rollout=base_run.evaluation.rollout,
    )
    mixture = warm_start.mixture
    demonstrated = scale.subsets_of(laptop.DEMONSTRATED, environments)
    return dataclasses.replace(
        made,
        base=base_run,
        warm_start=dataclasses.replace(
            warm_start, mixture=dataclasses.replace(mixture, subsets=demonstrated)
        ),
        difficulty_warm_start=dataclasses.replace(
            warm_start, mixture=dataclasses.replace(mixture, tier="all")
        ),
        difficulty_evaluation=dataclasses.replace(
            base_run.evaluation, tier="all", subsets=(), stratify="tier"
        ),
        room=_small_cpu_room,
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
        num_iterations=10,
        trained=laptop.TRAINED,
        note=(
            "Small scale on CPUs: SmolLM2-135M-Instruct with low-rank adapters, ten "
            "iterations of 48 episodes for each environment, easy tasks, short contexts."
        ),
    )
