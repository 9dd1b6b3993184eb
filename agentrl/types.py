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
import math
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
    group: (
        int  # index of the group within the iteration, 0..P-1; while it is played with
    )
    # `extra_groups`, within the stage
    sample: int  # index of the episode within its group, 0..G-1


class Ending(enum.StrEnum):
    """Why an episode ended."""

    SOLVED = "solved"  # the environment terminated it, with success
    FAILED = "failed"  # the environment terminated it, without success
    MAX_TURNS = "max_turns"  # the limit of the environment or the stage was reached
    MAX_TOKENS = "max_tokens"  # the episode's context limit was reached
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
    # Tokens that were taken back from the end of the context before the observation: the
    # last answer, which is read again without its reasoning.
    num_cut: int = 0
    # bool[Ta], False where the action was not sampled but continued with fixed tokens, at
    # the limit of a thought; None stands for True everywhere.
    sampled: np.ndarray | None = None

    @property
    def sampled_mask(self) -> np.ndarray:
        """Action tokens that the policy chose, bool[Ta]."""
        if self.sampled is None:
            return np.ones(len(self.action_tokens), bool)
        return self.sampled

    @property
    def num_sampled(self) -> int:
        """Number of action tokens that the policy chose."""
        chosen = self.sampled
        return len(self.action_tokens) if chosen is None else int(chosen.sum())


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A finished episode, token for token as it was sampled."""

    task: Task
    turns: tuple[Turn, ...]
    ending: Ending
    policy_step: int  # optimizer updates behind the parameters of its first turn
    success: bool
    score: float  # upstream's own definition of the result
    final_observation: str = ""
    error: str = ""  # for env_error and env_timeout: text and replay command
    fault: str = ""  # of these, what the environment did: `agentrl.envs.faults.Fault`

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of rewards.

        To nine decimals, so that the same rewards in another order are the same return:
        an estimator would make a signal of their last bits.
        """
        return round(math.fsum(turn.reward for turn in self.turns), 9)

    @property
    def num_tokens(self) -> int:
        """Observation and action tokens together, also those taken back later."""
        return sum(len(t.observation_tokens) + len(t.action_tokens) for t in self.turns)

    @property
    def max_context(self) -> int:
        """Tokens of the longest context, with the answer to it."""
        length = longest = 0
        for turn in self.turns:
            length += len(turn.observation_tokens) + len(turn.action_tokens)
            length -= turn.num_cut
            longest = max(longest, length)
        return longest

    @property
    def num_action_tokens(self) -> int:
        """Tokens the policy wrote, stop tokens included."""
        return sum(turn.num_sampled for turn in self.turns)


@dataclasses.dataclass(frozen=True)
class Signal:
    """What one trajectory trains with: a number for all of its action tokens, or float[A].

    Each weight stands before a loss of its own. A token may have several; one whose
    weights are all 0 is context only.
    """

    advantages: float | np.ndarray = 0.0
    rl_weights: float | np.ndarray = 0.0  # of the policy-gradient loss
    ce_weights: float | np.ndarray = 0.0  # of the negative log-likelihood
    kl_weights: float | np.ndarray = 0.0  # of the divergence from the reference model
    old_values: np.ndarray | None = None  # the critic's before the update
    value_targets: np.ndarray | None = None  # what the critic is to predict

    @property
    def trains(self) -> bool:
        """Whether any token has a weight."""
        streams = (self.rl_weights, self.ce_weights, self.kl_weights)
        return any(np.any(stream) for stream in streams)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """Packed trajectories for one optimizer update: M microbatches of R rows.

    A row holds several trajectories end to end; segment ids tell them apart. Per-token
    fields sit in the column of the token they describe: column `t` of
    `behavior_logprobs` is log p(token_t | tokens before t). The weights say what each
    token is trained for; the learner knows of no other reason. Streams that nothing in a
    stage uses are None. Unused microbatches at the end are all padding and cost nothing:
    the learner's loop stops before them.
    """

    tokens: jax.Array  # int32[M, R, T]
    segment_ids: jax.Array  # int32[M, R, T], 1.. within a row, 0 marks padding
    positions: jax.Array  # int32[M, R, T], restart at 0 in each segment
    behavior_logprobs: jax.Array  # float32[M, R, T], nats, 0 outside actions
    advantages: jax.Array  # float32[M, R, T], 0 where `rl_weights` is 0
    rl_weights: jax.Array  # float32[M, R, T], of the policy-gradient loss
    ce_weights: jax.Array | None = None  # float32[M, R, T], of the log-likelihood
    kl_weights: jax.Array | None = None  # float32[M, R, T], of the reference divergence
    old_values: jax.Array | None = None  # float32[M, R, T], the critic's predictions
    value_targets: jax.Array | None = None  # float32[M, R, T]

    @property
    def trained(self) -> jax.Array:
        """Tokens with any weight, bool[M, R, T]."""
        trained = self.rl_weights != 0
        for weights in (self.ce_weights, self.kl_weights):
            if weights is not None:
                trained = trained | (weights != 0)
        return trained

    def check(self) -> "TrainBatch":
        """Raises if shapes or dtypes disagree; returns self so calls can chain."""
        integers = [self.tokens, self.segment_ids, self.positions]
        floats = [
            *(self.behavior_logprobs, self.advantages, self.rl_weights),
            *(self.ce_weights, self.kl_weights, self.old_values, self.value_targets),
        ]
        floats = [stream for stream in floats if stream is not None]
        chex.assert_rank([*integers, *floats], 3)
        chex.assert_equal_shape([*integers, *floats])
        chex.assert_type(integers, int)
        chex.assert_type(floats, float)
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
    """The parameters of a model, in two trees; see `agentrl.models.lora`."""

    trained: PyTree  # what the optimizer updates and checkpoints store
    frozen: PyTree  # what no stage changes; empty unless the run freezes some


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
    """What the learner owns, and donates to each update."""

    step: jax.Array  # int32[], optimizer updates applied so far, across stages
    params: PyTree  # the trained ones
    opt_state: PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunState:
    """Everything that changes in a run, all of which a checkpoint stores."""

    learner: TrainState
    mixture: MixtureState


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands, apart from arrays. Small, and readable as JSON."""

    stage: int = 0  # index into the run's stages
    stage_name: str = ""
    iteration: int = 0  # iterations finished within that stage
    frozen_digest: int = 0  # of the parameters that are not stored because none changes
