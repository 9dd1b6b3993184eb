"""An environment that fails, a saboteur that kills workers, and the books to be kept.

`faulty_<k>` adds up the numbers it is told, for a fixed number of turns. 5 % of its
steps raise and 1 % never return, as a function of task and turn, so that it is known
beforehand which episodes can end well. The tests of the pool play some hundred of them,
and `benchmarks.bench_envs --faults` ten thousand.
"""

import collections
import dataclasses
import random
import threading
import time
from collections.abc import Iterable
from typing import ClassVar, Literal

from agentrl.envs import base, pool

TURNS = 4
Fate = Literal["finished", "raised", "timed_out", "lost"]


class Faulty(base.Environment):
    """See the module docstring."""

    name = "faulty"
    turn_limits: ClassVar = {"strict": TURNS, "agentgym": TURNS}

    @property
    def instruction(self) -> str:
        """The rules."""
        return "Say a number."

    def _start(self, index: int) -> str:
        self.index, self.turn, self.total = index, 0, 0
        return "total 0"

    def _apply(self, text: str) -> base.StepResult:
        fault = get_fault(self.index, self.turn)
        if fault == "raised":
            raise RuntimeError("sabotage")
        if fault == "timed_out":
            time.sleep(3600)
        self.turn += 1
        self.total += int(text)
        return base.StepResult(f"total {self.total}", terminated=self.turn == TURNS)


SPEC = base.EnvSpec(
    name="faulty",
    make=Faulty,
    splits=("train", "test"),
    panel=lambda split, _: base.TaskPanel("faulty", split, "faulty-1", ("faulty_0",)),
    tier=lambda *_: "easy",
    subset=lambda *_: "all",
    oracles={},
)


def get_fault(index: int, turn: int) -> Fate | None:
    """What goes wrong with a step, if anything."""
    draw = base.stable_hash("fault", index, turn) % 100
    if draw < 5:
        return "raised"
    return "timed_out" if draw == 5 else None


def get_fate(index: int) -> Fate:
    """How an episode ends if its worker lives as long."""
    for turn in range(TURNS):
        if fault := get_fault(index, turn):
            return fault
    return "finished"


class Saboteur(threading.Thread):
    """Kills a worker of a pool from time to time, until told to stop."""

    def __init__(self, envs: pool.EnvPool, period_s: float):
        super().__init__(daemon=True)
        self.kills = 0
        self._envs, self._period_s = envs, period_s
        self._stop_asked = threading.Event()
        self._random = random.Random(0)

    def run(self) -> None:
        """Kills, and waits, and kills."""
        while not self._stop_asked.wait(self._period_s):
            self._random.choice(self._envs._workers).process.kill()
            self.kills += 1

    def stop(self) -> None:
        """Ends the sabotage."""
        self._stop_asked.set()
        self.join()


@dataclasses.dataclass
class _Episode:
    index: int
    turn: int = 0
    total: int = 0

    def answer(self) -> str:
        """The next number to say, which depends on all that came before."""
        number = base.stable_hash("answer", self.index, self.turn, self.total) % 100
        self.turn += 1
        self.total += number
        return str(number)


class Books:
    """How each episode ended; refuses what does not add up."""

    def __init__(self):
        self.fates: dict[int, Fate] = {}

    @property
    def counts(self) -> collections.Counter:
        """Number of episodes by fate."""
        return collections.Counter(self.fates.values())

    def enter(self, episode: _Episode, reply: pool.Reply) -> bool:
        """Checks a reply; returns whether it ends the episode.

        Raises:
          AssertionError: if a result is wrong, or comes from an episode that cannot end
            like that.
        """
        fate: Fate
        if reply.result is not None:
            assert reply.result.observation == f"total {episode.total}"
            if not reply.result.done:
                return False
            fate = "finished"
        elif reply.timed_out:
            fate = "timed_out"
        elif "RuntimeError: sabotage" in str(reply.error):
            fate = "raised"
        else:
            fate = "lost"
        # A machine under load may be late, or kill: those two can happen to all.
        assert fate in (get_fate(episode.index), "timed_out", "lost"), episode
        assert episode.index not in self.fates, "an episode ended twice"
        self.fates[episode.index] = fate
        return True


def play_all(envs: pool.EnvPool, indices: Iterable[int], num_slots: int) -> Books:
    """Plays an episode of each `faulty_<index>`, refilling slots as they end."""
    books = Books()
    waiting = iter(indices)
    live: dict[int, _Episode] = {}

    def refill(slots: list[int]) -> None:
        live.update(
            (slot, _Episode(index)) for slot, index in zip(slots, waiting, strict=False)
        )
        new = [slot for slot in slots if slot in live]
        envs.send_reset({slot: f"faulty_{live[slot].index}" for slot in new})

    refill(list(range(num_slots)))
    while live:
        replies = envs.receive(list(live), wait_for_all=False)
        ended = [
            slot for slot, reply in replies.items() if books.enter(live[slot], reply)
        ]
        for slot in ended:
            del live[slot]
        envs.send_step({slot: live[slot].answer() for slot in replies if slot in live})
        refill(ended)
    return books
