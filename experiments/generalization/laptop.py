"""Scales for two cores: a model of 1.1 million parameters from random weights."""

import dataclasses
from collections.abc import Mapping, Sequence

from agentrl import config
from agentrl.envs import base
from agentrl.experiments.generalization import scale
from agentrl.models.model_config import ModelConfig

# Contexts are as short as befits the model: no recipes that do not help, no lists of
# actions, one passage, three products a page.
_ENVIRONMENTS = {
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
_ROOM = {
    "textcraft": (192, 26, (96, 192)),
    "babyai": (384, 16, (128, 256, 384)),
    "alfworld": (384, 16, (128, 256, 384)),
    "webshop": (704, 28, (256, 448, 704)),
    "searchqa": (384, 64, (128, 256, 384)),
}
# Weights in the warm start, by what each needs to learn its form.
_WEIGHTS = {
    "textcraft": 1.5,
    "babyai": 1.0,
    "alfworld": 2.0,
    "webshop": 1.5,
    "searchqa": 1.0,
}
# Iterations of the warm start, likewise.
_ITERATIONS = {
    "textcraft": 100,
    "babyai": 50,
    "alfworld": 200,
    "webshop": 200,
    "searchqa": 200,
}
# Demonstrations and reinforcement on other kinds of tasks, where there are such kinds:
# training on what has been demonstrated gains little.
DEMONSTRATED: scale.Tasks = {
    "textcraft": ("textcraft/depth_2",),
    "babyai": ("babyai/Pickup", "babyai/ActionObjDoor"),
}
TRAINED: scale.Tasks = {
    "textcraft": ("textcraft/depth_1",),
    "babyai": ("babyai/GoTo",),
}
_DIFFICULTY: Mapping[str, scale.Tasks] = {
    "textcraft": {"easy": ("textcraft/depth_1",), "hard": ("textcraft/depth_2",)},
    "babyai": {"easy": ("babyai/GoTo",), "hard": ("babyai/Pickup",)},
    "searchqa": {"easy": ("searchqa/hop_1",), "hard": ("searchqa/hop_2",)},
}


def _room(environments: Sequence[str]) -> config.RolloutConfig:
    rooms = [_ROOM[env] for env in environments]
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


def _warm_start(environments: tuple[str, ...]) -> config.StageConfig:
    return config.StageConfig(
        name="warm_start",
        mixture=config.MixtureConfig(
            environments=tuple((env, _WEIGHTS[env]) for env in environments),
            tier="easy",
            subsets=scale.subsets_of(DEMONSTRATED, environments),
        ),
        num_iterations=sum(_ITERATIONS[env] for env in environments),
        rollout=_room(environments),
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


def _evaluation(environments: tuple[str, ...]) -> config.EvaluationConfig:
    return config.EvaluationConfig(
        tier="easy",
        subsets=scale.subsets_of(TRAINED, environments),
        tasks=64,
        samples=8,
        before_training=True,
        rollout=_room(environments),
        rollouts={env: _room((env,)) for env in environments},
    )


def _tiers(environments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        name
        for env, tiers in _DIFFICULTY.items()
        if env in environments
        for tier in tiers.values()
        for name in tier
    )


def _difficulty_warm_start(environments: tuple[str, ...]) -> config.StageConfig:
    """Demonstrates both tiers: else easy and hard would be new and known, too."""
    stage = _warm_start(environments)
    mixture = dataclasses.replace(
        stage.mixture, tier="all", subsets=_tiers(environments)
    )
    return dataclasses.replace(stage, mixture=mixture)


def _difficulty_evaluation(
    environments: tuple[str, ...],
) -> config.EvaluationConfig:
    return dataclasses.replace(
        _evaluation(environments),
        tier="all",
        subsets=_tiers(environments),
        tasks=64,
        stratify="subset",
    )


def laptop(environments: tuple[str, ...]) -> scale.Scale:
    """Returns the scale of a study that fits two cores and a day."""
    longest = _room(environments).max_tokens
    vocabulary = 2048 if len(environments) > 3 else 1024  # few have fewer words
    evaluation = _evaluation(environments)
    return scale.Scale(
        base=config.RunConfig(
            name="laptop",
            stages=(),
            environments={env: _ENVIRONMENTS[env] for env in environments},
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
        warm_start=_warm_start(environments),
        room=_room,
        # Clip-higher, and each trajectory weighs the same, so that long failed ones do
        # not drown short solved ones. The entropy bonus keeps samples of a task apart:
        # without it 3 % of BabyAI's groups had a signal after 23 iterations.
        algorithm=config.Grpo(clip_high=0.28, entropy_coefficient=0.01),
        optimizer=config.OptimizerConfig(learning_rate=4e-4, warmup_steps=2),
        num_iterations=32,
        tier="easy",
        trained=TRAINED,
        difficulty={
            env: tiers for env, tiers in _DIFFICULTY.items() if env in environments
        },
        difficulty_evaluation=_difficulty_evaluation(environments),
        difficulty_warm_start=_difficulty_warm_start(environments),
        listed={"babyai": 3},  # AlfWorld's take 5,056 tokens an episode
        drift_samples=2,
        note=(
            "A model of 1.1 million parameters from random weights, warm-started on "
            "demonstrations; easy tasks, short contexts (three products a page, one "
            "passage, lists of actions only where they are asked about). Sizes of "
            "effects are those of this model."
        ),
    )


def short(environments: tuple[str, ...]) -> scale.Scale:
    """The laptop scale with about half of its warm start and reinforcement."""
    made = laptop(environments)
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
