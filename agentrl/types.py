"""Types that cross module borders. Nothing here computes; see `agentrl.ops` for that.

Letters of shapes, each with one meaning (see docs/glossary.md):
  P groups per iteration    G samples per group     E environments
  M microbatches            R rows of one           T tokens of a packed row
  B batch size              C prefill chunk         S cache length       N action budget
  K steps with credit       A action tokens         To, Ta tokens of an observation, action
  L layers  V vocabulary    D hidden size           Q query heads
  H key-value heads         Dh head size
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import chex
import jax
import numpy as np

PyTree = Any  # a tree of jax.Array; static types cannot say more, so docstrings do
Metrics = dict[str, Any]  # metric name -> scalar


@dataclasses.dataclass(frozen=True)
class Task:
    """What one episode plays. The G episodes of a group share everything but `sample`."""

    env: str
    item_id: str
    group: int  # index of the group within the iteration, 0..P-1
    sample: int  # index of the episode within its group, 0..G-1


class Ending(enum.StrEnum):
    """Why an episode ended."""

    SOLVED = "solved"  # the environment terminated it, with success
    FAILED = "failed"  # the environment terminated it, without success
    MAX_TURNS = "max_turns"  # the limit of the environment or the stage was reached
    MAX_TOKENS = "max_tokens"  # no room was left in the episode's token budget
    ENV_TIMEOUT = "env_timeout"  # the environment did not answer within its deadline
    ENV_ERROR = "env_error"  # the environment raised, or its worker died

    @property
    def truncated(self) -> bool:
        """True if a limit ended the episode while its state was not terminal."""
        return self in (Ending.MAX_TURNS, Ending.MAX_TOKENS, Ending.ENV_TIMEOUT)

    @property
    def lost(self) -> bool:
        """True if the environment broke or hung: nothing is known of the policy."""
        return self in (Ending.ENV_ERROR, Ending.ENV_TIMEOUT)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One exchange. Lengths differ between turns; nothing is padded yet."""

    observation_tokens: np.ndarray  # int32[To], all that is new since the last action
    action_tokens: np.ndarray  # int32[Ta], ends with the stop token unless cut off
    action_logprobs: np.ndarray  # float32[Ta], nats, at the sampling temperature
    observation: str
    action: str
    reward: float
    valid: bool  # the environment understood and allowed the action


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A finished episode, token for token as it was sampled."""

    task: Task
    turns: tuple[Turn, ...]
    ending: Ending
    policy_step: int  # optimizer updates behind the parameters that sampled it
    success: bool
    score: float  # upstream's own definition of the result
    final_observation: str = ""
    error: str = ""  # for env_error and env_timeout: text and replay command
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def num_tokens(self) -> int:
        """Observation and action tokens together."""
        return sum(len(t.observation_tokens) + len(t.action_tokens) for t in self.turns)

    @property
    def num_action_tokens(self) -> int:
        """Tokens the policy wrote, stop tokens included."""
        return sum(len(t.action_tokens) for t in self.turns)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """Packed trajectories for one optimizer update: M microbatches of R rows.

    A row holds several trajectories end to end; segment ids tell them apart. Per-token
    fields sit in the column of the token they describe: column `t` of
    `behavior_logprobs` is log p(token_t | tokens before t). Unused microbatches at the end
    are all padding and cost nothing: the learner's loop stops before them.
    """

    tokens: jax.Array  # int32[M, R, T]
    segment_ids: jax.Array  # int32[M, R, T], 1.. within a row, 0 marks padding
    positions: jax.Array  # int32[M, R, T], restart at 0 in each segment
    action_mask: jax.Array  # bool[M, R, T], True where the policy wrote the token
    behavior_logprobs: jax.Array  # float32[M, R, T], nats, 0 outside the action mask
    advantages: jax.Array  # float32[M, R, T], 0 outside the action mask
    env_ids: (
        jax.Array
    )  # int32[M, R, T], index into the run's environments, 0 in padding
    values: jax.Array | None = None  # float32[M, R, T], the critic's before the update
    returns: jax.Array | None = None  # float32[M, R, T], what the critic learns to say

    def check(self) -> "TrainBatch":
        """Raises if shapes or dtypes disagree; returns self so calls can chain."""
        kinds = [int, int, int, bool, float, float, int, float, float]
        named = zip(vars(self).values(), kinds, strict=True)
        fields, kinds = zip(*((x, k) for x, k in named if x is not None), strict=True)
        chex.assert_rank(fields, 3)
        chex.assert_equal_shape(fields)
        chex.assert_type(fields, kinds)
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MixtureState:
    """What the draw of tasks depends on and what a resumed run must find again."""

    weights: jax.Array  # float32[E], unnormalised probability of each environment
    success: jax.Array  # float32[E], running mean of success, -1 before any episode
    cursors: jax.Array  # int32[E], tasks drawn so far from each environment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything the learner owns, and exactly what a checkpoint stores of it."""

    step: jax.Array  # int32[], optimizer updates applied so far, across stages
    params: PyTree
    opt_state: PyTree
    mixture: MixtureState  # left out, as None, while the learner has the state
    key: jax.Array  # the run's PRNG key; every draw folds counters into it


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands, apart from arrays. Small, and readable as JSON."""

    stage: int = 0  # index into the run's stages
    stage_name: str = ""
    iteration: int = 0  # iterations finished within that stage
    frozen_digest: int = 0  # of the parameters that are not stored because none changes
    counters: Mapping[str, float] = dataclasses.field(default_factory=dict)
