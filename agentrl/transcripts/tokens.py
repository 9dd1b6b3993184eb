"""What a stored episode keeps of its tokens: where they stand in the text, and numbers.

Ids stay out. A token is known by the number of characters of the action's text that it
stands for, so that whoever shows the text needs no tokenizer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agentrl import types

Decode = Callable[[Sequence[int]], str]
_BLOCK = 32  # tokens that are decoded together: pieces depend on their neighbours
_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Hindsight:
    """What the policy says of an episode's sampled tokens after the update with it."""

    logprobs: np.ndarray  # float[A] nats
    entropies: np.ndarray  # float[A] nats, of what each token was drawn from


def describe(
    trajectory: types.Trajectory,
    decode: Decode,
    signal: types.Signal | None = None,
    hindsight: Hindsight | None = None,
) -> list[dict[str, Any]]:
    """Returns the numbers of each turn's action tokens, as JSON can hold them.

    Args:
      trajectory: the episode.
      decode: of the tokenizer.
      signal: what it trains with; None if it trains nothing.
      hindsight: see there; None if it was not asked for.

    Returns:
      For each turn: `lengths`, characters of each token, 0 for the stop token;
      `logprobs`, nats; with a signal, `advantages` and `weights` (of the policy-gradient
      loss); with hindsight, `ratios`, the probability after the update over that of
      sampling, and `entropies`. One number where all tokens of the turn have the same.
      Tokens that were put in, not sampled, have the weight 0 and the ratio 1.
    """
    turns = trajectory.turns
    behavior = np.concatenate([np.zeros(0), *(t.action_logprobs for t in turns)])
    sampled = np.concatenate([np.zeros(0, bool), *(t.sampled_mask for t in turns)])
    streams: dict[str, np.ndarray] = {}
    if signal is not None:
        streams["advantages"] = _spread(signal.advantages, sampled)
        streams["weights"] = _spread(signal.rl_weights, sampled)
    if hindsight is not None:
        gap = hindsight.logprobs - behavior[sampled]
        streams["ratios"] = np.exp(_spread(gap, sampled))
        streams["entropies"] = _spread(hindsight.entropies, sampled)
    borders = np.cumsum([0, *(len(turn.action_tokens) for turn in turns)])
    described = []
    for turn, first, end in zip(turns, borders, borders[1:], strict=False):
        numbers: dict[str, Any] = {
            "lengths": measure(turn.action_tokens, turn.action, decode),
            "logprobs": _round(turn.action_logprobs),
        }
        for name, stream in streams.items():
            values = stream[first:end]
            same = len(values) > 0 and bool(np.all(values == values[0]))
            numbers[name] = _round(values[:1])[0] if same else _round(values)
        described.append(numbers)
    return described


def _spread(stream: np.ndarray | float, sampled: np.ndarray) -> np.ndarray:
    """A stream of the sampled tokens over all action tokens; 0 for the others."""
    spread = np.zeros(len(sampled))
    spread[sampled] = stream
    return spread


def measure(ids: Sequence[int] | np.ndarray, text: str, decode: Decode) -> list[int]:
    """Returns how many characters of `text` each token stands for.

    A character that several tokens spell counts with the one that completes it. Lengths
    never reach beyond the text.
    """
    listed = [int(i) for i in ids]
    lengths: list[int] = []
    start, before, left = 0, 0, len(text)  # what is decoded together begins at `start`
    for end in range(1, len(listed) + 1):
        piece = decode(listed[start:end])
        # Bytes of a character that is not whole yet are shown as U+FFFD.
        whole = piece if end == len(listed) else piece.rstrip("\ufffd")
        lengths.append(min(max(0, len(whole) - before), left))
        left -= lengths[-1]
        before = max(before, len(whole))
        if end - start >= _BLOCK and whole == piece:
            # The last token stays as context: what begins a text may lose its space.
            alone = decode(listed[end - 1 : end])
            if alone:
                start, before = end - 1, len(alone)
    return lengths


def keep(
    trajectories: Sequence[types.Trajectory],
    decode: Decode,
    limit: int,
    signals: Sequence[types.Signal] | None = None,
    hindsight: Sequence[Hindsight] = (),
) -> list[list[dict[str, Any]] | None]:
    """Describes the first `limit` trajectories; the others have None."""
    found: list[list[dict[str, Any]] | None] = [None] * len(trajectories)
    for index, trajectory in enumerate(trajectories[:limit]):
        signal = None if signals is None else signals[index]
        later = hindsight[index] if index < len(hindsight) else None
        found[index] = describe(trajectory, decode, signal, later)
    return found


def _round(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
