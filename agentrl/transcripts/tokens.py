"""What a stored episode keeps of its tokens: where they stand in the text, and numbers.

Ids stay out. A token is known by the number of characters of the action's text that it
stands for, so that whoever shows the text needs no tokenizer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import types

Decode = Callable[[Sequence[int]], str]
_BLOCK = 32  # tokens that are decoded together: pieces depend on their neighbours
_DIGITS = 3


def describe(
    trajectory: types.Trajectory, decode: Decode, signal: types.Signal | None = None
) -> list[dict[str, Any]]:
    """Returns the numbers of each turn's action tokens, as JSON can hold them.

    Args:
      trajectory: the episode.
      decode: of the tokenizer.
      signal: what it trains with; None if it trains nothing.

    Returns:
      For each turn: `lengths`, characters of each token, 0 for the stop token;
      `logprobs`, nats; and, with a signal, `advantages` and `weights` (of the
      policy-gradient loss), one number where all tokens of the turn have the same.
    """
    counts = [len(turn.action_tokens) for turn in trajectory.turns]
    borders = np.cumsum([0, *counts])
    streams: Mapping[str, Any] = {}
    if signal is not None:
        streams = {"advantages": signal.advantages, "weights": signal.rl_weights}
    described = []
    for turn, first, end in zip(trajectory.turns, borders, borders[1:], strict=False):
        numbers: dict[str, Any] = {
            "lengths": measure(turn.action_tokens, turn.action, decode),
            "logprobs": _round(turn.action_logprobs),
        }
        for name, stream in streams.items():
            values = np.broadcast_to(stream, borders[-1])[first:end]
            same = len(values) > 0 and bool(np.all(values == values[0]))
            numbers[name] = _round(values[:1])[0] if same else _round(values)
        described.append(numbers)
    return described


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
) -> list[list[dict[str, Any]] | None]:
    """Describes the first `limit` trajectories; the others have None."""
    found: list[list[dict[str, Any]] | None] = [None] * len(trajectories)
    for index, trajectory in enumerate(trajectories[:limit]):
        signal = None if signals is None else signals[index]
        found[index] = describe(trajectory, decode, signal)
    return found


def _round(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
