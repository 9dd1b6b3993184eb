"""Ragged trajectories to rectangular arrays: the only code that does this.

Several trajectories share a row. Supervised stages use it as well: a demonstration is a
trajectory with an advantage of 1 and behavior log-probabilities of 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import config, errors, types

Advantage = float | np.ndarray  # of a trajectory, or float[K] of its K turns


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """What packing made of an iteration's trajectories, over all its minibatches."""

    num_rows: int  # with at least one trajectory
    num_left_out: int  # trajectories without a learning signal
    padding_fraction: float  # of the token positions that the learner computes

    def summarize(self) -> types.Metrics:
        """The report under metric names."""
        return {
            "learner/rows": self.num_rows,
            "learner/left_out": self.num_left_out,
            "perf/padding_fraction": self.padding_fraction,
        }


@dataclasses.dataclass(frozen=True)
class _Item:
    """A trajectory that is going to be trained on."""

    trajectory: types.Trajectory
    advantages: np.ndarray  # float64[K], one per turn

    @property
    def length(self) -> int:
        return self.trajectory.num_tokens


def to_train_batches(
    trajectories: Sequence[types.Trajectory],
    advantages: Sequence[Advantage],
    env_index: Mapping[str, int],
    *,
    learner_config: config.LearnerConfig,
    num_batches: int,
    seed: int,
    keep_zero_variance: bool = False,
) -> tuple[list[types.TrainBatch], PackingReport]:
    """Shuffles trajectories into minibatches and packs each into rows, longest first.

    Args:
      trajectories: finished episodes, already without those that must not count at all.
      advantages: one per trajectory; a number, or float[K] for its K turns.
      env_index: number of each environment, for `TrainBatch.env_ids`.
      learner_config: T, R and M. On many hosts every host packs its own episodes, and R
        is the number of rows that one host contributes.
      num_batches: minibatches, hence optimizer updates. One with nothing to train on is
        all padding.
      seed: of the shuffle; the same on every run, so that a resumed run repeats it.
      keep_zero_variance: also pack trajectories whose advantages are all 0. They cost
        compute and count in the mean of the loss, but pull in no direction.

    Returns:
      `num_batches` batches of NumPy arrays [M, R, T], and a report.

    Raises:
      ConfigError: if a minibatch needs more than M x R rows.
      ValueError: if a trajectory is longer than T or begins with an action.
    """
    items = []
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        _check(trajectory, learner_config.row_tokens)
        per_turn = np.broadcast_to(advantage, len(trajectory.turns))
        if trajectory.num_action_tokens and (keep_zero_variance or np.any(per_turn)):
            items.append(_Item(trajectory, per_turn))
    order = np.random.default_rng(seed).permutation(len(items))
    minibatches = [
        assign_rows([items[i] for i in part], learner_config.row_tokens)
        for part in np.array_split(order, num_batches)
    ]
    batches = [_fill(rows, env_index, learner_config) for rows in minibatches]
    num_left_out = len(trajectories) - len(items)
    return batches, _report(minibatches, num_left_out, learner_config)


def assign_rows(items: Sequence[_Item], row_tokens: int) -> list[list[_Item]]:
    """First-fit-decreasing bin packing: at most 11/9 of the fewest rows, plus 6/9.

    Returns:
      Rows, fullest first, so that the rows of one microbatch are alike.
    """
    rows: list[list[_Item]] = []
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
    rows: Sequence[Sequence[_Item]],
    env_index: Mapping[str, int],
    learner_config: config.LearnerConfig,
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
    fields = _empty_fields(capacity, learner_config.row_tokens)
    for row, items in enumerate(rows):
        start = 0
        for segment, item in enumerate(items, start=1):
            columns = slice(start, start + item.length)
            fields["segment_ids"][row, columns] = segment
            fields["positions"][row, columns] = np.arange(item.length)
            fields["env_ids"][row, columns] = env_index[item.trajectory.task.env]
            _write_turns({k: v[row, columns] for k, v in fields.items()}, item)
            start += item.length
    shape = learner_config.max_microbatches, num_rows, learner_config.row_tokens
    arrays: dict[str, Any] = {k: v.reshape(shape) for k, v in fields.items()}
    return types.TrainBatch(**arrays).check()


def _write_turns(columns: dict[str, np.ndarray], item: _Item) -> None:
    """Writes what differs between turns into views of the trajectory's columns."""
    start = 0
    for turn, advantage in zip(item.trajectory.turns, item.advantages, strict=True):
        middle = start + len(turn.observation_tokens)
        end = middle + len(turn.action_tokens)
        columns["tokens"][start:middle] = turn.observation_tokens
        columns["tokens"][middle:end] = turn.action_tokens
        columns["action_mask"][middle:end] = True
        columns["behavior_logprobs"][middle:end] = turn.action_logprobs
        columns["advantages"][middle:end] = advantage
        start = end


def _empty_fields(num_rows: int, num_columns: int) -> dict[str, np.ndarray]:
    dtypes = {
        "tokens": np.int32,
        "segment_ids": np.int32,
        "positions": np.int32,
        "action_mask": np.bool_,
        "behavior_logprobs": np.float32,
        "advantages": np.float32,
        "env_ids": np.int32,
    }
    return {k: np.zeros((num_rows, num_columns), v) for k, v in dtypes.items()}


def _report(
    minibatches: Sequence[Sequence[Sequence[_Item]]],
    num_left_out: int,
    learner_config: config.LearnerConfig,
) -> PackingReport:
    num_rows = learner_config.rows_per_microbatch
    computed = sum(-(-len(rows) // num_rows) * num_rows for rows in minibatches)
    positions = computed * learner_config.row_tokens
    used = sum(item.length for rows in minibatches for row in rows for item in row)
    return PackingReport(
        num_rows=sum(len(rows) for rows in minibatches),
        num_left_out=num_left_out,
        padding_fraction=1 - used / positions if positions else 0.0,
    )
