"""A policy without a model: it chooses among the available actions at random.

What it achieves on a panel is what chance achieves there, which is not always nothing.
Actions are drawn uniformly, in the workers of a pool; see `episodes.RandomActor`.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from agentrl.envs import base, pool

_SLOTS_PER_WORKER = 4


class Outcome(NamedTuple):
    """How one episode ended."""

    success: bool
    score: float
    turns: int


def play(
    envs: pool.EnvPool, item_ids: Sequence[str], samples: int
) -> list[Outcome | None] | None:
    """Plays every task `samples` times.

    An episode in which no action is left to choose ends there, unsolved.

    Args:
      envs: the pool that plays; no episode of its slots may be under way.
      item_ids: the tasks, of one environment.
      samples: episodes of each task.

    Returns:
      The outcome of each episode, the samples of a task side by side; None in place of
      those that the environment lost. None instead of the list if the environment lists
      no actions to choose from, or lost all episodes.
    """
    envs.send_reset({0: item_ids[0]}, oracle=base.RandomPolicy(0))
    reply = envs.receive([0])[0]
    if reply.result is not None and reply.advice is None:
        return None
    players = _Players(envs)
    players.run(item_ids, samples)
    chose = any(outcome is not None and outcome.turns for outcome in players.outcomes)
    return players.outcomes if chose else None


class _Players:
    """Episodes in the slots of a pool."""

    def __init__(self, envs: pool.EnvPool):
        self.outcomes: list[Outcome | None] = []
        self._envs = envs
        self._live: dict[int, tuple[int, int]] = {}  # by slot: place, turns so far

    def run(self, item_ids: Sequence[str], samples: int) -> None:
        """Plays all tasks."""
        self.outcomes = [None] * (len(item_ids) * samples)
        waiting = collections.deque(range(len(self.outcomes)))
        free = list(range(_SLOTS_PER_WORKER * self._envs.num_workers))
        while waiting or self._live:
            while waiting and free:
                slot, place = free.pop(), waiting.popleft()
                task, sample = divmod(place, samples)
                self._live[slot] = place, 0
                self._envs.send_reset(
                    {slot: item_ids[task]}, oracle=base.RandomPolicy(sample)
                )
            replies = self._envs.receive(list(self._live), wait_for_all=False)
            answers = {slot: self._take(slot, reply) for slot, reply in replies.items()}
            free += [slot for slot, answer in answers.items() if answer is None]
            self._envs.send_step({s: a for s, a in answers.items() if a is not None})

    def _take(self, slot: int, reply: pool.Reply) -> str | None:
        """Returns the next answer, or None if the episode has ended."""
        place, turns = self._live[slot]
        result = reply.result
        if result is None or result.done or reply.advice is None:
            del self._live[slot]
            if result is not None:
                info = result.info
                self.outcomes[place] = Outcome(info.success, info.score, turns)
            return None
        self._live[slot] = place, turns + 1
        return reply.advice
