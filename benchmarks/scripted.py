"""An engine and environments whose lengths are scripted, to measure rollouts.

The model computes everything as usual, but each action has the length that a script
gives it, whatever was sampled: all variants of an engine then handle the same tokens.
Environments cost a set time per call and no CPU.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping

import jax
import numpy as np

from agentrl import types
from agentrl.chat import renderer
from agentrl.engine import engine
from agentrl.envs import base, pool

STOP, START, FIRST_TEXT = 0, 1, 2  # token ids


class CharacterTokenizer:
    """One token for each character."""

    stop_id, start_id = STOP, START
    stop_ids = (STOP,)

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of the characters, folded into the vocabulary."""
        room = self.vocab_size - FIRST_TEXT
        return [FIRST_TEXT + ord(c) % room for c in text]

    def decode(self, ids: Collection[int]) -> str:
        """A text of as many characters; nobody reads it."""
        return "x" * len(ids)


def make_chat(vocab_size: int) -> renderer.Chat:
    """The bare frame over `CharacterTokenizer`."""
    return renderer.Chat(CharacterTokenizer(vocab_size), "bare")  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Script:
    """Lengths of simulated episodes, in tokens; the bounds are inclusive."""

    opening: int = 160
    observation: int = 16
    action: tuple[int, int] = (8, 24)
    turns: tuple[int, int] = (8, 8)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest possible episode."""
        per_turn = self.observation + self.action[1]
        return self.opening - self.observation + self.turns[1] * per_turn

    def num_action_tokens(self, episode: int, turn: int) -> int:
        """Length of one action."""
        return _draw(self.action, episode, turn)

    def num_turns(self, item_id: str, reset: int) -> int:
        """Length of the episode that the `reset`-th reset starts."""
        return _draw(self.turns, int(item_id.rpartition("_")[2]), reset)

    def text(self, item_id: str, length: int) -> str:
        """An observation of `length` tokens, the start token included."""
        return (item_id + "." * length)[: length - 1]


def _draw(bounds: tuple[int, int], *names: int) -> int:
    return int(np.random.default_rng(names).integers(bounds[0], bounds[1] + 1))


class ScriptedEngine(engine.Engine):
    """An engine whose actions end where the script says; it times every turn."""

    def __init__(self, *args, script: Script, reprefill: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self._script = script
        self._reprefill = reprefill
        self._contexts: dict[tuple[int, int], list[int]] = {}  # by cohort and slot
        self._started: dict[int, tuple[float, int]] = {}
        self.turns: dict[int, list[tuple[int, float]]] = {}  # turn -> (tokens, s)

    def dispatch(self, params, cohort, inputs, key):
        """Dispatches as the parent does, with budgets from the script."""
        self._started[id(cohort)] = (
            time.perf_counter(),
            max(entry.stream[1] for entry in inputs.values()),
        )
        scripted = {}
        for slot, entry in inputs.items():
            length = self._script.num_action_tokens(*entry.stream)
            tokens = entry.tokens
            if self._reprefill:
                name = (id(cohort), slot)
                past = self._contexts.get(name, []) if entry.stream[1] else []
                tokens = self._contexts[name] = [*past, *tokens]
                cohort.lengths[slot] = 0
            scripted[slot] = dataclasses.replace(
                entry, tokens=tokens, budget=min(length, entry.budget)
            )
        return super().dispatch(params, cohort, scripted, key)

    def fetch(self, cohort, in_flight):
        """Fetches as the parent does; the script's end of an action is the stop token."""
        outputs = super().fetch(cohort, in_flight)
        started, turn = self._started.pop(id(cohort))
        count = 0
        for slot, output in outputs.items():
            if self._reprefill:
                self._contexts[id(cohort), slot] += output.tokens[:-1].tolist()
            tokens = np.append(output.tokens[:-1], STOP).astype(np.int32)
            outputs[slot] = dataclasses.replace(output, tokens=tokens)
            count += len(tokens)
        spent = time.perf_counter() - started
        self.turns.setdefault(turn, []).append((count, spent))
        return outputs


class SimulatedPool:
    """Stands in for `agentrl.envs.pool.EnvPool`: every call takes `seconds`, side by side."""  # noqa: E501

    def __init__(self, script: Script, seconds: float = 0.0):
        self._script, self._seconds = script, seconds
        self._due: dict[int, float] = {}  # by slot
        self._replies: dict[int, pool.Reply] = {}
        self._left: dict[int, int] = {}  # turns to play
        self._items: dict[int, str] = {}
        self._resets: dict[str, int] = {}

    def send_reset(self, items: Mapping[int, str]) -> None:
        """Starts an episode in each slot."""
        for slot, item_id in items.items():
            reset = self._resets[item_id] = self._resets.get(item_id, -1) + 1
            self._items[slot] = item_id
            self._left[slot] = self._script.num_turns(item_id, reset)
            self._answer(slot, self._script.opening)

    def send_step(self, actions: Mapping[int, str]) -> None:
        """Plays a turn in each slot."""
        for slot in actions:
            self._left[slot] -= 1
            self._answer(slot, self._script.observation)

    def arrived(self, slots: Collection[int]) -> bool:
        """Whether `receive` would not wait."""
        return all(self._due[slot] <= time.perf_counter() for slot in slots)

    def receive(self, slots: Collection[int]) -> dict[int, pool.Reply]:
        """Waits until the last of the calls is over."""
        last = max([self._due.pop(slot) for slot in slots], default=0.0)
        time.sleep(max(0.0, last - time.perf_counter()))
        return {slot: self._replies.pop(slot) for slot in slots}

    def _answer(self, slot: int, length: int) -> None:
        text = self._script.text(self._items[slot], length)
        result = base.StepResult(text, terminated=self._left[slot] == 0)
        self._due[slot] = time.perf_counter() + self._seconds
        self._replies[slot] = pool.Reply(slot, "", result)


def make_tasks(
    num_groups: int, group_size: int, *, first_group: int = 0
) -> list[types.Task]:
    """Episodes of made-up tasks."""
    return [
        types.Task("scripted", f"scripted_{group}", group, sample)
        for group in range(first_group, first_group + num_groups)
        for sample in range(group_size)
    ]


def time_rounds(
    variants: Mapping[str, Callable[[], dict[str, float]]], num_rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Runs variants in turn, round after round, after one round that does not count."""
    for run in variants.values():
        run()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(num_rounds):
        for name, run in variants.items():
            found[name].append(run())
    return found


def clocked(run: Callable[[], int]) -> dict[str, float]:
    """Tokens that `run` returns, with the wall and CPU seconds it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = run()
    jax.effects_barrier()
    return {
        "tokens": tokens,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }
