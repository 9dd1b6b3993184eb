"""Ragged trajectories to rectangular arrays, and back: the only code that does this.

Several trajectories share a row. `place` decides where each goes, `fill` writes a batch
accordingly, `unpack` reads per-token results back, `pack` is what an iteration needs.

Where reasoning is taken back from a context, a trajectory is no single sequence. `unfold`
makes pieces of it: each is a context as the policy read it, followed by what it wrote
there. Every piece is a sequence of its own, for losses that average over sequences, too.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import config, errors, types


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where trajectories lie in the rows of one batch."""

    rows: tuple[
        tuple[int, ...], ...
    ]  # indices of the trajectories in each row, in order
    lengths: tuple[int, ...]  # tokens of each trajectory, by index

    def items(self) -> list[tuple[int, int, slice]]:
        """(trajectory, row, columns) of everything placed."""
        found = []
        for row, indices in enumerate(self.rows):
            start = 0
            for index in indices:
                end = start + self.lengths[index]
                found.append((index, row, slice(start, end)))
                start = end
        return found


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """What packing made of an iteration's trajectories, over all its batches."""

    num_rows: int  # with at least one trajectory
    num_dropped: int  # trajectories without a learning signal
    num_tokens: int  # of all trajectories that are trained on
    num_action_tokens: int
    attention_pairs: int  # of a token and one that it attends to
    padding_fraction: float  # of the token positions that the learner computes

    def summarize(self) -> types.Metrics:
        """Returns the report under metric names."""
        return {
            "learner/rows": self.num_rows,
            "learner/dropped": self.num_dropped,
            "learner/tokens": self.num_tokens,
            "learner/trained_actions": self.num_action_tokens,
            "learner/attention_pairs": self.attention_pairs,
            "perf/padding_fraction": self.padding_fraction,
        }


def pack(
    trajectories: Sequence[types.Trajectory],
    signals: Sequence[types.Signal],
    *,
    learner_config: config.LearnerConfig,
    num_batches: int,
    seed: int,
    num_passes: int = 1,
    streams: Sequence[str] = (),
    local_rows: Collection[int] | None = None,
) -> tuple[list[types.TrainBatch], PackingReport]:
    """Shuffles trajectories into minibatches and packs each into rows, longest first.

    Args:
      trajectories: of an iteration.
      signals: one for each; trajectories that train no token are dropped.
      learner_config: T, R and M. On many hosts every host places all episodes alike, and
        writes and computes its part of the R rows.
      num_batches: minibatches of each pass, hence optimizer updates. One with nothing to
        train on is all padding.
      seed: of the shuffle; the same on every run, so that a resumed run repeats it.
      num_passes: over the trajectories, each shuffled in its own way.
      streams: optional fields of `TrainBatch` that the batches are to have, whether any
        of these signals needs them or not: all batches of a stage are alike.
      local_rows: those of the R rows to write, see `fill`.

    Returns:
      `num_passes` x `num_batches` batches of NumPy arrays [M, R, T], and a report.

    Raises:
      ConfigError: if a minibatch needs more than M x R rows.
      ValueError: if a trajectory is longer than T or begins with an action: they are
        never truncated or split, as the reward belongs to the whole.
    """
    used = [
        index
        for index, (trajectory, signal) in enumerate(
            zip(trajectories, signals, strict=True)
        )
        if trajectory.num_action_tokens and signal.trains
    ]
    pieces, origins = unfold([trajectories[i] for i in used])
    parts = _split_signals([signals[i] for i in used], pieces, origins)
    for piece in pieces:
        _check(piece, learner_config.row_tokens)
    lengths = tuple(piece.num_tokens for piece in pieces)
    placements = [
        Placement(assign_rows(chosen, lengths, learner_config.row_tokens), lengths)
        for chosen in _draw_minibatches(origins, num_batches, num_passes, seed)
    ]
    options = {"streams": streams, "local_rows": local_rows}
    batches = [
        fill(placement, pieces, parts, learner_config, **options)
        for placement in placements
    ]
    num_dropped = len(trajectories) - len(used)
    return batches, _report(placements, pieces, num_dropped, learner_config)


def _draw_minibatches(
    origins: Sequence[int], num_batches: int, num_passes: int, seed: int
) -> Iterator[list[int]]:
    """Yields the pieces of each minibatch; `origins` says whose trajectory's each is."""
    of_trajectory: dict[int, list[int]] = {}
    for index, origin in enumerate(origins):
        of_trajectory.setdefault(origin, []).append(index)
    for number in range(num_passes):
        rng = np.random.default_rng((seed, number))
        order = rng.permutation(len(of_trajectory))
        for part in np.array_split(order, num_batches):
            yield [index for i in part for index in of_trajectory[i]]


def unfold(
    trajectories: Sequence[types.Trajectory],
) -> tuple[list[types.Trajectory], list[int]]:
    """Makes one sequence, or several, of each trajectory.

    Returns:
      Pieces without tokens that are taken back, in the order of the trajectories' turns,
      and for each the index of its trajectory. Those of one trajectory hold its action
      tokens once, in order; the context that a piece begins with is its first observation.
    """
    pieces, origins = [], []
    for origin, trajectory in enumerate(trajectories):
        if not any(turn.num_cut for turn in trajectory.turns):
            pieces.append(trajectory)
            origins.append(origin)
            continue
        context = np.zeros(0, np.int32)  # what the policy had read before a turn
        turns: list[types.Turn] = []
        for turn in trajectory.turns:
            if turn.num_cut:
                pieces.append(dataclasses.replace(trajectory, turns=tuple(turns)))
                origins.append(origin)
                kept = context[: len(context) - turn.num_cut]
                read = np.concatenate([kept, turn.observation_tokens])
                opened = dataclasses.replace(turn, observation_tokens=read, num_cut=0)
                context, turns = np.append(read, turn.action_tokens), [opened]
            else:
                new = (context, turn.observation_tokens, turn.action_tokens)
                context, turns = np.concatenate(new), [*turns, turn]
        pieces.append(dataclasses.replace(trajectory, turns=tuple(turns)))
        origins.append(origin)
    return pieces, origins


def _split_signals(
    signals: Sequence[types.Signal],
    pieces: Sequence[types.Trajectory],
    origins: Sequence[int],
) -> list[types.Signal]:
    """The signal of each piece: its part of what has a number for each action token."""
    if len(pieces) == len(signals):
        return list(signals)  # nothing was cut: each piece is a whole trajectory
    found, starts = [], [0] * len(signals)
    for piece, origin in zip(pieces, origins, strict=True):
        start, signal = starts[origin], signals[origin]
        end = starts[origin] = start + piece.num_action_tokens
        found.append(
            types.Signal(
                **{
                    name: v[start:end] if isinstance(v, np.ndarray) else v
                    for name, v in vars(signal).items()
                }
            )
        )
    return found


def place(
    trajectories: Sequence[types.Trajectory], learner_config: config.LearnerConfig
) -> list[Placement]:
    """Places all trajectories that hold an action into as few batches as they need."""
    lengths = tuple(trajectory.num_tokens for trajectory in trajectories)
    indices = [i for i, t in enumerate(trajectories) if t.num_action_tokens]
    rows = assign_rows(indices, lengths, learner_config.row_tokens)
    capacity = learner_config.rows_per_microbatch * learner_config.max_microbatches
    return [
        Placement(rows[start : start + capacity], lengths)
        for start in range(0, len(rows), capacity)
    ]


def assign_rows(
    indices: Sequence[int], lengths: Sequence[int], row_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Packs by first-fit-decreasing: at most 11/9 of the fewest rows, plus 6/9.

    Args:
      indices: trajectories to place.
      lengths: tokens of each trajectory, by index.
      row_tokens: capacity of a row.

    Returns:
      Indices of each row. Rows come fullest first, so that those of one microbatch are
      alike.
    """
    rows: list[list[int]] = []
    capacity = np.zeros(len(indices), int)  # tokens that still fit into each row
    for index in sorted(indices, key=lambda i: -lengths[i]):
        fits = np.flatnonzero(capacity[: len(rows)] >= lengths[index])
        row = int(fits[0]) if len(fits) else len(rows)
        if row == len(rows):
            rows.append([])
            capacity[row] = row_tokens
        rows[row].append(index)
        capacity[row] -= lengths[index]
    order = np.argsort(capacity[: len(rows)], kind="stable")
    return tuple(tuple(rows[i]) for i in order)


def fill(
    placement: Placement,
    trajectories: Sequence[types.Trajectory],
    signals: Sequence[types.Signal],
    learner_config: config.LearnerConfig,
    *,
    streams: Sequence[str] = (),
    local_rows: Collection[int] | None = None,
) -> types.TrainBatch:
    """Writes placed trajectories and their signals into the arrays of one batch.

    Args:
      placement: from `place` or `pack`.
      trajectories: by the indices of the placement.
      signals: one for each trajectory.
      learner_config: T, R and M.
      streams: optional fields of the batch that it is to have.
      local_rows: those of the R rows of a microbatch that this process's devices compute;
        the others stay empty, and their memory untouched. None writes all.

    Raises:
      ConfigError: if the placement has more than M x R rows.
    """
    num_rows, capacity = _check_capacity(placement, learner_config)
    shape = (capacity, learner_config.row_tokens)
    fields: dict[str, Any] = {
        name: np.zeros(shape, np.int32)
        for name in ("tokens", "segment_ids", "positions")
    } | {
        name: np.zeros(shape, np.float32)
        for name in ("behavior_logprobs", "advantages", "rl_weights", *streams)
    }
    segments = np.zeros(capacity, int)
    for index, row, columns in placement.items():
        if local_rows is not None and row % num_rows not in local_rows:
            continue
        segments[row] += 1
        length = columns.stop - columns.start
        fields["segment_ids"][row, columns] = segments[row]
        fields["positions"][row, columns] = np.arange(length)
        views = {name: field[row, columns] for name, field in fields.items()}
        _write(views, trajectories[index], signals[index])
    cut = (learner_config.max_microbatches, num_rows, learner_config.row_tokens)
    arrays = {name: field.reshape(cut) for name, field in fields.items()}
    return types.TrainBatch(**arrays).check()


def unpack(
    placement: Placement,
    trajectories: Sequence[types.Trajectory],
    values: np.ndarray,
) -> dict[int, np.ndarray]:
    """Reads per-token results back, the inverse of `fill`.

    Args:
      placement: of the batch that was scored.
      trajectories: by the indices of the placement.
      values: float[rows, T], in the rows of the placement.

    Returns:
      float64[A] at the A action tokens of each placed trajectory, by its index.
    """
    found = {}
    for index, row, columns in placement.items():
        mask = action_mask(trajectories[index])
        found[index] = np.asarray(values[row, columns], np.float64)[mask]
    return found


def action_mask(trajectory: types.Trajectory) -> np.ndarray:
    """Tokens that the policy wrote, bool[N] over the N tokens of a trajectory."""
    parts = [
        mask
        for turn in trajectory.turns
        for mask in (np.zeros(len(turn.observation_tokens), bool), turn.sampled_mask)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


def _check(trajectory: types.Trajectory, row_tokens: int) -> None:
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


def _check_capacity(
    placement: Placement, learner_config: config.LearnerConfig
) -> tuple[int, int]:
    """Returns R and M x R."""
    num_rows, needed = learner_config.rows_per_microbatch, len(placement.rows)
    capacity = num_rows * learner_config.max_microbatches
    if needed > capacity:
        raise errors.ConfigError(
            f"a minibatch needs {needed} rows of {learner_config.row_tokens} "
            f"tokens, but learner.max_microbatches = {learner_config.max_microbatches} "
            f"times learner.rows_per_microbatch = {num_rows} is {capacity}; set "
            f"learner.max_microbatches = {-(-needed // num_rows)} or more, or raise "
            "algorithm.updates_per_iteration."
        )
    return num_rows, capacity


def _write(
    columns: Mapping[str, np.ndarray],
    trajectory: types.Trajectory,
    signal: types.Signal,
) -> None:
    """Writes a trajectory's turns and signal into views of its columns."""
    start = 0
    for turn in trajectory.turns:
        middle = start + len(turn.observation_tokens)
        end = middle + len(turn.action_tokens)
        columns["tokens"][start:middle] = turn.observation_tokens
        columns["tokens"][middle:end] = turn.action_tokens
        columns["behavior_logprobs"][middle:end] = turn.action_logprobs
        start = end
    mask = action_mask(trajectory)
    for field in dataclasses.fields(signal):
        value = getattr(signal, field.name)
        if field.name in columns and value is not None:
            columns[field.name][mask] = value


def _report(
    placements: Sequence[Placement],
    trajectories: Sequence[types.Trajectory],
    num_dropped: int,
    learner_config: config.LearnerConfig,
) -> PackingReport:
    num_rows = learner_config.rows_per_microbatch
    computed = sum(-(-len(p.rows) // num_rows) * num_rows for p in placements)
    positions = computed * learner_config.row_tokens
    used = [trajectories[i] for p in placements for i, _, _ in p.items()]
    lengths = [trajectory.num_tokens for trajectory in used]
    return PackingReport(
        num_rows=sum(len(p.rows) for p in placements),
        num_dropped=num_dropped,
        num_tokens=sum(lengths),
        num_action_tokens=sum(trajectory.num_action_tokens for trajectory in used),
        attention_pairs=sum(n * (n + 1) // 2 for n in lengths),
        padding_fraction=1 - sum(lengths) / positions if positions else 0.0,
    )
