"""Tasks as the environments' own oracles solve them, to learn from and to show.

Environments and oracles run in the workers of a pool, with its deadline and its checks.
"""

import collections
import logging
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from agentrl.envs import base, episodes, faults, pool, registry

Spellings = Literal["lower", "all"]
_WORDS: Mapping[Spellings, re.Pattern[str]] = {
    "lower": re.compile(r"[a-z]{2,}"),
    "all": re.compile(r"[A-Za-z0-9]{2,}"),  # names with capitals, codes of products
}
_SLOTS_PER_WORKER = 4
_LOGGER = logging.getLogger(__name__)
_COMMON = 0.5  # words that more demonstrations copy are grammar, not names


class Demonstration(NamedTuple):
    """A solved task."""

    item_id: str
    instruction: str
    exchanges: list[tuple[str, str]]  # observation and answer of every turn


def collect(
    envs: pool.EnvPool,
    env_name: str,
    item_ids: Sequence[str],
    *,
    thoughts: bool = True,
    max_error_fraction: float = 0.1,
    allow_none: bool = False,
) -> list[Demonstration]:
    """Returns demonstrations by the observational oracle, in the order of the tasks.

    Tasks that the oracle fails or refuses drop out. So do those that the environment
    loses, with a warning.

    Args:
      envs: the pool that plays; no episode of its slots may be under way.
      env_name: one of its environments.
      item_ids: the tasks.
      thoughts: False cuts answers down to the action.
      max_error_fraction: share of the tasks that the environment may lose.
      allow_none: whether the oracle may solve none of them.

    Raises:
      EnvConfigError: if the environment has no observational oracle, or it solves none of
        the tasks, unless it may: whoever learns from them has nothing to learn from.
      EnvFaultsError: if the environment loses more tasks.
    """
    episodes.require_oracle(env_name, "observational")
    played = _Players(envs, thoughts)
    played.run(item_ids)
    if played.lost:
        lost = [played.lost[place] for place in sorted(played.lost)]
        text = (
            f"{len(lost)} of {len(item_ids)} demonstrations of '{env_name}' were "
            f"lost to the environment. {faults.summarize(lost)}"
        )
        if len(lost) > max_error_fraction * len(item_ids):
            raise faults.EnvFaultsError(
                f"{text}\nAt most {max_error_fraction:g} of them may be; mend the "
                "environment, or allow more."
            )
        _LOGGER.warning(text)
    if item_ids and not played.solved and not allow_none:
        raise base.EnvConfigError(_explain_none(envs, env_name, item_ids, played))
    return [played.solved[place] for place in sorted(played.solved)]


class _Players:
    """Oracles that play a list of tasks in the slots of a pool."""

    def __init__(self, envs: pool.EnvPool, thoughts: bool):
        # By place in the list; of lost tasks, kind and text of the error.
        self.solved: dict[int, Demonstration] = {}
        self.lost: dict[int, tuple[str, str]] = {}
        self.refused: list[int] = []
        self.unsolved: list[int] = []
        self._envs, self._thoughts = envs, thoughts
        self._live: dict[int, tuple[int, Demonstration]] = {}  # by slot, with its place

    def run(self, item_ids: Sequence[str]) -> None:
        """Plays all tasks."""
        waiting = collections.deque(enumerate(item_ids))
        free = list(range(_SLOTS_PER_WORKER * self._envs.num_workers))
        while waiting or self._live:
            started = {free.pop(): waiting.popleft() for _ in free[: len(waiting)]}
            for slot, (place, item_id) in started.items():
                self._live[slot] = place, Demonstration(item_id, "", [])
            tasks = {slot: item_id for slot, (_, item_id) in started.items()}
            self._envs.send_reset(tasks, oracle="observational")
            replies = self._envs.receive(list(self._live), wait_for_all=False)
            answers = {slot: self._take(slot, reply) for slot, reply in replies.items()}
            free += [slot for slot, answer in answers.items() if answer is None]
            self._envs.send_step({s: a for s, a in answers.items() if a is not None})

    def _take(self, slot: int, reply: pool.Reply) -> str | None:
        """Returns the oracle's answer, or None if the episode has ended."""
        place, demonstration = self._live[slot]
        if reply.instruction is not None:
            demonstration = demonstration._replace(instruction=reply.instruction)
            self._live[slot] = place, demonstration
        answer = reply.advice
        if reply.result is None or reply.result.done or answer is None:
            del self._live[slot]
            if reply.result is None:
                self.lost[place] = str(reply.fault), reply.error or ""
            elif not reply.result.done:
                self.refused.append(place)
            elif reply.result.info.success:
                self.solved[place] = demonstration
            else:
                self.unsolved.append(place)
            return None
        if not self._thoughts and "Action:" in answer:
            answer = answer[answer.index("Action:") :]
        demonstration.exchanges.append((reply.result.observation, answer))
        return answer


def _explain_none(
    envs: pool.EnvPool, env_name: str, item_ids: Sequence[str], played: _Players
) -> str:
    """Says what became of tasks of which none was solved, and how to see one."""
    counts = [f"{len(played.refused)} refused, {len(played.unsolved)} ended unsolved"]
    if played.lost:
        counts.append(f"{len(played.lost)} lost to the environment")
    # An episode that ended shows more than one that never began.
    shown = min(played.unsolved or played.refused or played.lost)
    command = faults.replay_command(item_ids[shown], envs.configs[env_name])
    return (
        f"the observational oracle of '{env_name}' solved 0 of {len(item_ids)} tasks "
        f"({', '.join(counts)}); a solved task ends with info.success, and an answer "
        f"needs an `Action:` line. `{command} --oracle=observational` shows one."
    )


def choose_examples(
    envs: pool.EnvPool, env_name: str, count: int, *, max_error_fraction: float = 0.1
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Item id and exchanges of the shortest training tasks in a fixed draw.

    Args:
      envs: the pool that plays, as for `collect`.
      env_name: one of its environments.
      count: examples that are wanted.
      max_error_fraction: as for `collect`.

    Returns:
      `count` examples; fewer if the oracle solves fewer of the 4 x `count` tasks drawn.

    Raises:
      EnvConfigError, EnvFaultsError: as `collect`.
    """
    panel = registry.get_spec(env_name).panel("train", envs.configs[env_name])
    drawn = sorted(panel.item_ids, key=base.stable_hash)[: 4 * count]
    solved = collect(envs, env_name, drawn, max_error_fraction=max_error_fraction)
    solved.sort(key=lambda demonstration: sum(map(len, texts([demonstration]))))
    return [(item_id, exchanges) for item_id, _, exchanges in solved[:count]]


def rename(
    demonstrations: Sequence[Demonstration],
    draw: int = 0,
    *,
    spellings: Spellings = "lower",
) -> list[Demonstration]:
    """The demonstrations with other names in the place of their own.

    A name is a word that answers take from an observation, and that is not common to most
    demonstrations. All its places get the same new one: a name of other demonstrations, or
    a blend of two, which no demonstration has. What is left to learn is the copying, as in
    symbol tuning: https://arxiv.org/abs/2305.08298.

    Args:
      demonstrations: of one environment.
      draw: another number gives other names; they depend on it and the item ids alone.
      spellings: "lower" takes words of small letters for names, "all" also those with
        capitals and digits.
    """
    pattern = _WORDS[spellings]
    copied = [_copied_words(demonstration, pattern) for demonstration in demonstrations]
    counts = collections.Counter(word for words in copied for word in words)
    names = {w for w, n in counts.items() if n <= _COMMON * len(demonstrations)}
    known = sorted(names)
    renamed = []
    for demonstration, words in zip(demonstrations, copied, strict=True):
        rng = random.Random(base.stable_hash(demonstration.item_id, draw))
        own = sorted(words & names)
        drawn = [_blend(rng, known) for _ in own]
        table = dict(zip(own, rng.sample(known, len(own)), strict=True))
        table |= {
            w: new for w, new in zip(own, drawn, strict=True) if rng.random() < 0.5
        }
        renamed.append(_replace_words(demonstration, table, pattern))
    return renamed


def texts(demonstrations: Iterable[Demonstration]) -> list[str]:
    """All observations and answers, to train a vocabulary on."""
    return [
        text
        for demonstration in demonstrations
        for exchange in demonstration.exchanges
        for text in exchange
    ]


def _copied_words(demonstration: Demonstration, pattern: re.Pattern[str]) -> set[str]:
    seen, copied = set(), set()
    for observation, answer in demonstration.exchanges:
        seen |= set(pattern.findall(observation))
        copied |= seen & set(pattern.findall(answer))
    return copied


def _blend(rng: random.Random, names: Sequence[str]) -> str:
    first, second = rng.choice(names), rng.choice(names)
    return first[: (len(first) + 1) // 2] + second[len(second) // 2 :]


def _replace_words(
    demonstration: Demonstration, table: dict[str, str], pattern: re.Pattern[str]
) -> Demonstration:
    def replace(text: str) -> str:
        return pattern.sub(lambda word: table.get(word[0], word[0]), text)

    exchanges = [
        (replace(seen), replace(said)) for seen, said in demonstration.exchanges
    ]
    return demonstration._replace(exchanges=exchanges)
