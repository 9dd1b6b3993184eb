"""Ragged trajectories to rectangular arrays: the only code that does this.

Several trajectories share a row. Supervised stages use it as well: a demonstration is a
trajectory with an advantage of 1 and behavior log-probabilities of 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import config, errors, types


@dataclasses.dataclass(frozen=True)
class Example:
    """A trajectory and what it trains with: a number, or float[A] of its action tokens."""

    trajectory: types.Trajectory
    advantages: float | np.ndarray
    values: np.ndarray | None = None  # where there is a critic, as `returns`
    returns: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Columns that it takes."""
        return self.trajectory.num_tokens


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """What packing made of an iteration's trajectories, over all its minibatches."""

    num_rows: int  # with at least one trajectory
    num_left_out: int  # trajectories without a learning signal
    num_tokens: int  # of all trajectories that are trained on
    num_action_tokens: int
    num_pairs: int  # of a token and one that it attends to
    padding_fraction: float  # of the token positions that the learner computes

    def summarize(self) -> types.Metrics:
        """The report under metric names."""
        return {
            "learner/rows": self.num_rows,
            "learner/left_out": self.num_left_out,
            "learner/tokens": self.num_tokens,
            "learner/trained_actions": self.num_action_tokens,
            "learner/pairs": self.num_pairs,
            "perf/padding_fraction": self.padding_fraction,
        }


def to_train_batches(
    examples: Sequence[Example],
    env_index: Mapping[str, int],
    *,
    learner_config: config.LearnerConfig,
    num_batches: int,
    seed: int,
    keep_zero_variance: bool = False,
    has_critic: bool = False,
) -> tuple[list[types.TrainBatch], PackingReport]:
    """Shuffles trajectories into minibatches and packs each into rows, longest first.

    Args:
      examples: finished episodes, already without those that must not count at all.
      env_index: number of each environment, for `TrainBatch.env_ids`.
      learner_config: T, R and M. On many hosts every host packs all episodes alike, and
        computes its part of the R rows.
      num_batches: minibatches, hence optimizer updates. One with nothing to train on is
        all padding.
      seed: of the shuffle; the same on every run, so that a resumed run repeats it.
      keep_zero_variance: also pack trajectories whose advantages are all 0. They cost
        compute and count in the mean of the loss, but pull in no direction.
      has_critic: whether examples bring values and returns, for batches without any too.

    Returns:
      `num_batches` batches of NumPy arrays [M, R, T], and a report.

    Raises:
      ConfigError: if a minibatch needs more than M x R rows.
      ValueError: if a trajectory is longer than T or begins with an action.
    """
    for example in examples:
        _check(example.trajectory, learner_config.row_tokens)
    used = [
        e
        for e in examples
        if e.trajectory.num_action_tokens
        and (keep_zero_variance or np.any(e.advantages))
    ]
    order = np.random.default_rng(seed).permutation(len(used))
    minibatches = [
        assign_rows([used[i] for i in part], learner_config.row_tokens)
        for part in np.array_split(order, num_batches)
    ]
    batches = [
        _fill(rows, env_index, learner_config, has_critic) for rows in minibatches
    ]
    return batches, _report(minibatches, len(examples) - len(used), learner_config)


def assign_rows(items: Sequence[Example], row_tokens: int) -> list[list[Example]]:
    """First-fit-decreasing bin packing: at most 11/9 of the fewest rows, plus 6/9.

    Returns:
      Rows, fullest first, so that the rows of one microbatch are alike.
    """
    rows: list[list[Example]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda item: -item.length):
        index = next((i for i, r in enumerate(room) if r >= item.length), len(rows))
        if index == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[index].append(item)
        room[index] -= item.length
    return [rows[i] for i in np.argsort(room, kind="stable")]


def _check(trajectory: types.Trajectory, row_tokens: int) -> None:
    """Refuses what cannot be packed whole: the reward belongs to the whole."""
    if trajectory.num_tokens > row_tokens:
        raise ValueError(
            f"a trajectory of task '{trajectory.task.item_id}' has "
            f"{trajectory.num_tokens} tokens but rows only {row_tokens} columns; raise "
            "learner.row_tokens, or stop episodes earlier with rollout.max_tokens."
        )
    if trajectory.turns and not len(trajectory.turns[0].observation_tokens):
        raise ValueError(
            f"a trajectory of task '{trajectory.task.item_id}' begins with an action, "
            "whose first token nothing predicts. Give the first turn an observation."
        )


def _fill(
    rows: Sequence[Sequence[Example]],
    env_index: Mapping[str, int],
    learner_config: config.LearnerConfig,
    has_critic: bool,
) -> types.TrainBatch:
    """Writes rows into the arrays of one batch."""
    num_rows = learner_config.rows_per_microbatch
    capacity = num_rows * learner_config.max_microbatches
    if len(rows) > capacity:
        raise errors.ConfigError(
            f"a minibatch needs {len(rows)} rows of {learner_config.row_tokens} "
            f"tokens, but learner.max_microbatches = {learner_config.max_microbatches} "
            f"times learner.rows_per_microbatch = {num_rows} is {capacity}; set "
            f"learner.max_microbatches = {-(-len(rows) // num_rows)} or more, or raise "
            "algorithm.updates_per_iteration."
        )
    fields = _empty_fields(capacity, learner_config.row_tokens, has_critic)
    for row, items in enumerate(rows):
        start = 0
        for segment, item in enumerate(items, start=1):
            columns = slice(start, start + item.length)
            fields["segment_ids"][row, columns] = segment
            fields["positions"][row, columns] = np.arange(item.length)
            fields["env_ids"][row, columns] = env_index[item.trajectory.task.env]
            _write({k: v[row, columns] for k, v in fields.items()}, item)
            start += item.length
    shape = learner_config.max_microbatches, num_rows, learner_config.row_tokens
    arrays: dict[str, Any] = {k: v.reshape(shape) for k, v in fields.items()}
    return types.TrainBatch(**arrays).check()


def _write(columns: dict[str, np.ndarray], item: Example) -> None:
    """Writes an example's turns and signals into views of its columns."""
    start = 0
    for turn in item.trajectory.turns:
        middle = start + len(turn.observation_tokens)
        end = middle + len(turn.action_tokens)
        columns["tokens"][start:middle] = turn.observation_tokens
        columns["tokens"][middle:end] = turn.action_tokens
        columns["action_mask"][middle:end] = True
        columns["behavior_logprobs"][middle:end] = turn.action_logprobs
        start = end
    for name in columns.keys() & {"advantages", "values", "returns"}:
        columns[name][columns["action_mask"]] = getattr(item, name)


def _empty_fields(
    num_rows: int, num_columns: int, has_critic: bool
) -> dict[str, np.ndarray]:
    dtypes = {
        "tokens": np.int32,
        "segment_ids": np.int32,
        "positions": np.int32,
        "action_mask": np.bool_,
        "behavior_logprobs": np.float32,
        "advantages": np.float32,
        "env_ids": np.int32,
    } | ({"values": np.float32, "returns": np.float32} if has_critic else {})
    return {k: np.zeros((num_rows, num_columns), v) for k, v in dtypes.items()}


def _report(
    minibatches: Sequence[Sequence[Sequence[Example]]],
    num_left_out: int,
    learner_config: config.LearnerConfig,
) -> PackingReport:
    num_rows = learner_config.rows_per_microbatch
    computed = sum(-(-len(rows) // num_rows) * num_rows for rows in minibatches)
    positions = computed * learner_config.row_tokens
    used = [item for rows in minibatches for row in rows for item in row]
    num_tokens = sum(item.length for item in used)
    return PackingReport(
        num_rows=sum(len(rows) for rows in minibatches),
        num_left_out=num_left_out,
        num_tokens=num_tokens,
        num_action_tokens=sum(item.trajectory.num_action_tokens for item in used),
        num_pairs=sum(item.length * (item.length + 1) // 2 for item in used),
        padding_fraction=1 - num_tokens / positions if positions else 0.0,
    )
