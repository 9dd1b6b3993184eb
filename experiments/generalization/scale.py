"""What a scale of the generalization study is: a model, how long, how much room."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from agentrl import config

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


def subsets_of(chosen: Tasks, environments: Sequence[str]) -> tuple[str, ...]:
    """Returns the subsets of all these environments."""
    return tuple(name for env in environments for name in chosen.get(env, ()))
