"""The scales of the generalization study: what model, how long, how much room.

`laptop`  a model of 1.1 million parameters, random weights, two cores
`short`   the same for about half as long
`small`   SmolLM2-135M-Instruct or another small language model, one GPU or a night of CPU
`paper`   Qwen2.5-3B/7B-Instruct with the settings known of arXiv 2603.12011
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import LoraConfig, ModelConfig, Precision
from agentrl.pretrained import presets

ENVIRONMENTS = ("textcraft", "babyai", "alfworld", "webshop", "searchqa")
# Tasks that a stage may be on: all of the tier, or these subsets of an environment.
Tasks = Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """What the axes of study.py are built from."""

    base: config.RunConfig  # without stages
    warm_start: config.StageConfig | None
    # (environments, tasks of an iteration) -> room for all of them
    room: Callable[[Sequence[str]], config.RolloutConfig]
    algorithm: config.Grpo
    optimizer: config.OptimizerConfig
    num_iterations: int  # of reinforcement, for each environment of a chain
    tier: Literal[
        "all", "easy", "hard"
    ]  # of training tasks, unless difficulty is what is asked
    trained: Tasks  # subsets of training tasks, likewise
    difficulty: Mapping[str, Tasks]  # by environment and tier
    difficulty_evaluation: config.EvaluationConfig  # panels with both tiers
    # Where `within` begins; None takes `warm_start`.
    difficulty_warm_start: config.StageConfig | None = None
    # Environments whose lists of actions fit, and how many times the room that takes.
    listed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    drift_samples: int = 0  # of each task, to measure drift from
    test_turns: int | None = None  # K of tests, where it differs from training's
    note: str = ""


def make(scale: str, environments: Sequence[str]) -> Scale:
    """Returns a scale for some environments; empty takes all five.

    Raises:
      ValueError: if there is no such scale, or it has no such environment.
    """
    for env in environments:
        if env not in ENVIRONMENTS:
            raise ValueError(f"no environment {env!r}; give {', '.join(ENVIRONMENTS)}")
    if scale not in SCALES:
        raise ValueError(f"no scale {scale!r}; give one of {', '.join(SCALES)}")
    return SCALES[scale](tuple(environments) or ENVIRONMENTS)


# Laptop. Contexts are as short as befits the model: no recipes that do not help, no lists
# of actions, one passage, three products a page.

_LAPTOP = {
    "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=8),
    "babyai": base.EnvConfig(list_actions="never", max_turns=6),
    "alfworld": base.EnvConfig(list_actions="never", max_turns=12),
    "webshop": base.EnvConfig(
        options={"page_size": 3}, list_actions="never", max_turns=6
    ),
    "searchqa": base.EnvConfig(
        options={"top_k": 1, "copying_oracle": True}, max_turns=3
    ),
}
# Tokens of an episode, tokens of an action, cache buckets.
_LAPTOP_ROOM = {
    "textcraft": (192, 26, (96, 192)),
    "babyai": (384, 16, (128, 256, 384)),
    "alfworld": (384, 16, (128, 256, 384)),
    "webshop": (704, 28, (256, 448, 704)),
    "searchqa": (384, 64, (128, 256, 384)),
}
# Weights in the warm start, by what each needs to learn its form.
_LAPTOP_WEIGHTS = {
    "textcraft": 1.5,
    "babyai": 1.0,
    "alfworld": 2.0,
    "webshop": 1.5,
    "searchqa": 1.0,
}
# Iterations of the warm start, likewise.
_LAPTOP_ITERATIONS = {
    "textcraft": 100,
    "babyai": 50,
    "alfworld": 200,
    "webshop": 200,
    "searchqa": 200,
}
# Demonstrations and reinforcement on other kinds of tasks, where there are such kinds:
# training on what has been demonstrated gains little.
_LAPTOP_DEMONSTRATED: Tasks = {
    "textcraft": ("textcraft/depth_2",),
    "babyai": ("babyai/Pickup", "babyai/ActionObjDoor"),
}
_LAPTOP_TRAINED: Tasks = {
    "textcraft": ("textcraft/depth_1",),
    "babyai": ("babyai/GoTo",),
}
_LAPTOP_DIFFICULTY: Mapping[str, Tasks] = {
    "textcraft": {"easy": ("textcraft/depth_1",), "hard": ("textcraft/depth_2",)},
    "babyai": {"easy": ("babyai/GoTo",), "hard": ("babyai/Pickup",)},
    "searchqa": {"easy": ("searchqa/hop_1",), "hard": ("searchqa/hop_2",)},
}


def _laptop_room(environments: Sequence[str]) -> config.RolloutConfig:
    rooms = [_LAPTOP_ROOM[env] for env in environments]
    longest = max(room[0] for room in rooms)
    return config.RolloutConfig(
        tasks_per_iteration=16 if "webshop" in environments else 32,
        group_size=8,
        max_tokens=longest,
        max_action_tokens=max(room[1] for room in rooms),
        num_slots=32,
        append_buckets=(32, 64, 128) if longest < 600 else (32, 128, 448),
        cache_buckets=tuple(sorted({size for room in rooms for size in room[2]})),
    )


def _subsets(chosen: Tasks, environments: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for env in environments for name in chosen.get(env, ()))


def _laptop_warm_start(environments: tuple[str, ...]) -> config.StageConfig:
    return config.StageConfig(
        name="warm_start",
        mixture=config.MixtureConfig(
            environments=tuple((env, _LAPTOP_WEIGHTS[env]) for env in environments),
            tier="easy",
            subsets=_subsets(_LAPTOP_DEMONSTRATED, environments),
        ),
        num_iterations=sum(_LAPTOP_ITERATIONS[env] for env in environments),
        rollout=_laptop_room(environments),
        optimizer=config.OptimizerConfig(
            learning_rate=3e-3, warmup_steps=20, schedule="cosine"
        ),
        algorithm=config.Supervised(
            demonstrations=1500,
            episodes_per_step=40,
            thoughts=False,
            renamed_copies=tuple(
                (env, copies)
                for env, copies in (("textcraft", 8), ("webshop", 2), ("searchqa", 2))
                if env in environments
            ),
            renamed_spellings="all",
        ),
    )


def _laptop_evaluation(environments: tuple[str, ...]) -> config.EvaluationConfig:
    return config.EvaluationConfig(
        tier="easy",
        subsets=_subsets(_LAPTOP_TRAINED, environments),
        tasks=64,
        samples=8,
        before_training=True,
        rollout=_laptop_room(environments),
        rollouts={env: _laptop_room((env,)) for env in environments},
    )


def _laptop_tiers(environments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        name
        for env, tiers in _LAPTOP_DIFFICULTY.items()
        if env in environments
        for tier in tiers.values()
        for name in tier
    )


def _laptop_difficulty_warm_start(environments: tuple[str, ...]) -> config.StageConfig:
    """Demonstrates both tiers: else easy and hard would be new and known, too."""
    stage = _laptop_warm_start(environments)
    mixture = dataclasses.replace(
        stage.mixture, tier="all", subsets=_laptop_tiers(environments)
    )
    return dataclasses.replace(stage, mixture=mixture)


def _laptop_difficulty_evaluation(
    environments: tuple[str, ...],
) -> config.EvaluationConfig:
    return dataclasses.replace(
        _laptop_evaluation(environments),
        tier="all",
        subsets=_laptop_tiers(environments),
        tasks=64,
        stratify="subset",
    )


def _laptop(environments: tuple[str, ...]) -> Scale:
    longest = _laptop_room(environments).max_tokens
    vocabulary = 2048 if len(environments) > 3 else 1024  # few have fewer words
    evaluation = _laptop_evaluation(environments)
    return Scale(
        base=config.RunConfig(
            name="laptop",
            stages=(),
            environments={env: _LAPTOP[env] for env in environments},
            model=ModelConfig(
                vocab_size=vocabulary,
                hidden_size=128,
                num_layers=2,
                mlp_size=512,
                tied_embeddings=False,
                init="induction",
            ),
            tokenizer=config.TokenizerConfig(vocab_size=vocabulary),
            evaluation=evaluation,
            learner=config.LearnerConfig(
                row_tokens=longest,
                rows_per_microbatch=max(2, 4608 // longest // 2 * 2),
                max_microbatches=96,
            ),
            keep_checkpoints=1,
        ),
        warm_start=_laptop_warm_start(environments),
        room=_laptop_room,
        # Clip-higher, and each trajectory weighs the same, so that long failed ones do
        # not drown short solved ones. The entropy bonus keeps samples of a task apart:
        # without it 3 % of BabyAI's groups had a signal after 23 iterations.
        algorithm=config.Grpo(clip_high=0.28, entropy_coefficient=0.01),
        optimizer=config.OptimizerConfig(learning_rate=4e-4, warmup_steps=2),
        num_iterations=32,
        tier="easy",
        trained=_LAPTOP_TRAINED,
        difficulty={
            env: tiers
            for env, tiers in _LAPTOP_DIFFICULTY.items()
            if env in environments
        },
        difficulty_evaluation=_laptop_difficulty_evaluation(environments),
        difficulty_warm_start=_laptop_difficulty_warm_start(environments),
        listed={"babyai": 3},  # AlfWorld's take 5,056 tokens an episode
        drift_samples=2,
        note=(
            "A model of 1.1 million parameters from random weights, warm-started on "
            "demonstrations; easy tasks, short contexts (three products a page, one "
            "passage, lists of actions only where they are asked about). Sizes of "
            "effects are those of this model."
        ),
    )


def _short(environments: tuple[str, ...]) -> Scale:
    """The laptop scale with about half of its warm start and reinforcement."""
    made = _laptop(environments)
    iterations = 80 * len(environments)
    warm_start, of_tiers = made.warm_start, made.difficulty_warm_start
    assert warm_start is not None and of_tiers is not None
    return dataclasses.replace(
        made,
        base=dataclasses.replace(made.base, name="short"),
        warm_start=dataclasses.replace(warm_start, num_iterations=iterations),
        difficulty_warm_start=dataclasses.replace(of_tiers, num_iterations=iterations),
        num_iterations=10,
        note=f"{made.note} Short: 80 iterations of warm start for each environment, 10 of "
        "reinforcement.",
    )


# Small: a pretrained language model with low-rank adapters.

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


def _small(environments: tuple[str, ...]) -> Scale:
    everything = _small_room(environments)
    evaluation = config.EvaluationConfig(
        tasks=48,
        stratify="tier",
        samples=8,
        before_training=True,
        rollout=everything,
        rollouts={env: _small_room((env,)) for env in environments},
    )
    return Scale(
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


def _small_cpu(environments: tuple[str, ...]) -> Scale:
    made = _small(environments)
    everything = _small_cpu_room(environments)
    evaluation = dataclasses.replace(
        made.base.evaluation,
        tier="easy",
        stratify="",
        subsets=_subsets(_LAPTOP_TRAINED, environments),
        tasks=24,
        samples=4,
        rollout=everything,
        rollouts={env: _small_cpu_room((env,)) for env in environments},
    )
    assert made.warm_start is not None
    warm_start = dataclasses.replace(
        made.warm_start,
        num_iterations=10 * len(environments),
        rollout=everything,
    )
    demonstrated = dataclasses.replace(
        warm_start.mixture, subsets=_subsets(_LAPTOP_DEMONSTRATED, environments)
    )
    return dataclasses.replace(
        made,
        base=dataclasses.replace(
            made.base,
            name="small_cpu",
            environments={
                env: dataclasses.replace(settings, max_turns=_SMALL_CPU_TURNS[env])
                for env, settings in made.base.environments.items()
            },
            # Recent CPUs multiply bfloat16 in hardware, a third faster here; others are
            # slower than in float32.
            model=dataclasses.replace(
                made.base.model,
                precision=Precision(compute="bfloat16", cache="bfloat16"),
            ),
            evaluation=evaluation,
            mesh=config.MeshConfig(cpu_devices=1),  # a worker for each core
            learner=config.LearnerConfig(
                row_tokens=everything.max_tokens,
                rows_per_microbatch=2,
                max_microbatches=48,
            ),
            num_env_workers=1,
        ),
        warm_start=dataclasses.replace(warm_start, mixture=demonstrated),
        difficulty_warm_start=dataclasses.replace(
            warm_start, mixture=dataclasses.replace(warm_start.mixture, tier="all")
        ),
        difficulty_evaluation=dataclasses.replace(
            evaluation, tier="all", subsets=(), stratify="tier"
        ),
        room=_small_cpu_room,
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
        num_iterations=10,
        trained=_LAPTOP_TRAINED,
        note=(
            "Small scale on CPUs: SmolLM2-135M-Instruct with low-rank adapters, ten "
            "iterations of 48 episodes for each environment, easy tasks, short contexts."
        ),
    )


# Paper: turn limits in training, 20 turns in tests, groups of 8, 8,192 tokens. Which
# limit is whose environment's is inferred from the order in which the paper lists them.
# Optimizer, KL and batch are those of AgentGym-RL (2509.08755), whose framework it names.

_PAPER_TURNS = {
    "webshop": 10,
    "searchqa": 5,
    "textcraft": 30,
    "alfworld": 10,
    "babyai": 15,
}


def _paper(environments: tuple[str, ...]) -> Scale:
    room = config.RolloutConfig(
        tasks_per_iteration=32,
        group_size=8,
        max_tokens=8192,
        max_action_tokens=512,
        num_slots=256,
        num_cohorts=2,
        append_buckets=(64, 256, 1024),
        cache_buckets=(2048, 4096, 8192),
        row_buckets=(64,),
    )
    evaluation = config.EvaluationConfig(
        samples=8, before_training=True, random_policy=False, rollout=room
    )
    return Scale(
        base=config.RunConfig(
            name="paper",
            stages=(),
            environments={
                env: base.EnvConfig(profile="agentgym", max_turns=_PAPER_TURNS[env])
                for env in environments
            },
            model=presets.get("qwen2.5-3b"),
            tokenizer=config.TokenizerConfig(frame="agentgym"),
            evaluation=evaluation,
            mesh=config.MeshConfig(fsdp=8),
            learner=config.LearnerConfig(
                row_tokens=8192,
                rows_per_microbatch=8,
                max_microbatches=64,
                remat="full",
            ),
            num_env_workers=16,
            save_every=25,
        ),
        warm_start=None,
        room=lambda _: room,
        algorithm=config.Grpo(
            kl=config.KLConfig(coefficient=0.001), entropy_coefficient=0.001
        ),
        optimizer=config.OptimizerConfig(learning_rate=1e-6),
        num_iterations=100,
        tier="all",
        trained={},
        difficulty={env: {} for env in environments},
        difficulty_evaluation=evaluation,
        listed={"babyai": 1, "alfworld": 1},
        test_turns=20,
        note=(
            "Paper scale: Qwen2.5-Instruct without a warm start, the published turn "
            "limits, groups of 8 and 8,192 tokens; policies are tested with the trained "
            "limit and with 20 turns."
        ),
    )


SCALES = {
    "laptop": _laptop,
    "short": _short,
    "small": _small,
    "small_cpu": _small_cpu,
    "paper": _paper,
}
