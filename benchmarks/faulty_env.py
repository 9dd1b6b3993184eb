"""An environment that misbehaves in every way, and the books to be kept.

`faulty_<k>` adds up the numbers it is told, for a fixed number of turns. Some of its steps
raise, hang, return what is no result, fork, end their process or eat memory, as a function
of task and turn, so that it is known beforehand how each episode has to end. Forks and lone
surrogates do no harm: such episodes have to finish. The tests of the pool play some hundred
episodes, and `benchmarks.bench_envs --faults` ten thousand.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import threading
import time
from collections.abc import Iterable
from typing import ClassVar

from agentrl.envs import base, faults, pool

TURNS = 4
MEMORY_LIMIT = 256 << 20  # bytes of a worker
FINISHED = "finished"
# What goes wrong in how many of 1,000 steps, and how the episode ends.
FAULTS: dict[str, tuple[int, str]] = {
    "raise": (30, faults.Fault.RAISED),
    "return None": (5, faults.Fault.INVALID),
    "return NaN": (5, faults.Fault.INVALID),
    "return bytes": (5, faults.Fault.INVALID),
    "return surrogates": (10, FINISHED),
    "fork": (10, FINISHED),
    "hang": (5, faults.Fault.TIMED_OUT),
    "end the process": (3, faults.Fault.DIED),
    "write to the socket": (2, faults.Fault.DIED),
    "eat memory": (3, faults.Fault.MEMORY),
    "eat memory for ever": (2, faults.Fault.MEMORY),
}
HANG_FOLDER = "FAULTY_HANG_FOLDER"  # variable; who hangs leaves a file with its pid


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
        self.eaten = bytearray()
        return "total 0"

    def _apply(self, text: str) -> base.StepResult:
        fault = get_fault(self.index, self.turn)
        self.turn += 1
        self.total += int(text)
        observation = f"total {self.total}"
        if fault == "return surrogates":
            observation += "\ud800"
        elif fault == "fork":
            os.fork()
        elif fault == "return None":
            return None  # pyright: ignore[reportReturnType]
        elif fault == "return NaN":
            return base.StepResult(observation, reward=float("nan"))
        elif fault == "return bytes":
            return base.StepResult(observation.encode())  # pyright: ignore
        elif fault is not None:
            self._fail(fault)
        return base.StepResult(observation, terminated=self.turn == TURNS)

    def _fail(self, fault: str) -> None:
        if fault == "raise":
            raise RuntimeError("sabotage")
        if fault == "end the process":
            os._exit(7)
        if fault == "write to the socket":
            for handle in range(3, 64):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{handle}").startswith("socket:"):
                        os.write(handle, b"garbage" * 10)
        elif fault == "eat memory":
            self.eaten = bytearray(2 * MEMORY_LIMIT)
        elif fault == "eat memory for ever":
            while True:
                if len(self.eaten) < 4 * MEMORY_LIMIT:
                    self.eaten += bytes(MEMORY_LIMIT // 4)
                time.sleep(0.01)
        elif fault == "hang":
            if folder := os.environ.get(HANG_FOLDER):
                pathlib.Path(folder, str(os.getpid())).touch()
            time.sleep(3600)


SPEC = base.EnvSpec(
    name="faulty",
    make=Faulty,
    splits=("train", "test"),
    panel=lambda split, _: base.TaskPanel("faulty", split, "faulty-1", ("faulty_0",)),
    tier=lambda *_: "easy",
    subset=lambda *_: "all",
    oracles={},
)


def get_fault(index: int, turn: int) -> str | None:
    """What goes wrong with a step, if anything."""
    draw = base.stable_hash("fault", index, turn) % 1000
    for name, (share, _) in FAULTS.items():
        draw -= share
        if draw < 0:
            return name
    return None


def get_fate(index: int) -> str:
    """How an episode has to end."""
    for turn in range(TURNS):
        fault = get_fault(index, turn)
        if fault is not None and FAULTS[fault][1] != FINISHED:
            return FAULTS[fault][1]
    return FINISHED


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


class Executioner(threading.Thread):
    """Ends workers that say that they hang, as if their deadline had passed."""

    def __init__(self, envs: pool.EnvPool, folder: pathlib.Path):
        super().__init__(daemon=True)
        self._envs, self._folder = envs, folder
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Looks for files that hanging workers leave."""
        while not self._stop_asked.wait(0.005):
            for path in self._folder.iterdir():
                # Also of a worker that was killed: a later one may get its number.
                path.unlink()
                for worker in list(self._envs._workers):
                    if worker.process.pid == int(path.name):
                        worker.overdue = True
                        worker.kill()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop_asked.set()
        self.join()


class Books:
    """How each episode ended; refuses what does not add up."""

    def __init__(self):
        self.fates: dict[int, str] = {}

    @property
    def counts(self) -> collections.Counter:
        """Number of episodes by fate."""
        return collections.Counter(self.fates.values())

    @property
    def wrong(self) -> list[int]:
        """Episodes that did not end as they had to."""
        return [k for k, fate in self.fates.items() if fate != get_fate(k)]

    def enter(self, episode: _Episode, reply: pool.Reply) -> bool:
        """Checks a reply; returns whether it ends the episode.

        Raises:
          AssertionError: if a result is wrong, an error is not of this episode, or the
            episode has ended before.
        """
        if reply.result is not None:
            observed = reply.result.observation.rstrip("\ufffd")
            assert observed == f"total {episode.total}", reply
            if not reply.result.done:
                return False
            fate = FINISHED
        else:
            assert f"task faulty_{episode.index}, turn {episode.turn}," in str(
                reply.error
            )
            fate = str(reply.fault)
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
