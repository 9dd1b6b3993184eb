"""Tasks as the environments' own oracles solve them, to learn from and to show."""

import collections
import random
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agentrl.envs import base, episodes, registry

_WORD = re.compile(r"[a-z]{2,}")
_COMMON = 0.5  # words that more demonstrations copy are grammar, not names


class Demonstration(NamedTuple):
    """A solved task."""

    item_id: str
    instruction: str
    exchanges: list[tuple[str, str]]  # observation and answer of every turn


def collect(
    env_name: str,
    env_config: base.EnvConfig,
    item_ids: Sequence[str],
    *,
    thoughts: bool = True,
) -> list[Demonstration]:
    """Demonstrations by the observational oracle; tasks it fails or refuses drop out."""
    env = registry.make(env_name, env_config)
    solved = []
    for item_id in item_ids:
        try:
            exchanges, result = _play(env, item_id, thoughts)
        except base.OracleRefusalError:
            continue
        if result.info.success:
            solved.append(Demonstration(item_id, env.instruction, exchanges))
    return solved


def choose_examples(
    env_name: str, env_config: base.EnvConfig, count: int
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Item id and exchanges of the shortest training tasks in a fixed draw.

    Returns:
      `count` examples; fewer if the oracle solves fewer of the 4 x `count` tasks drawn.
    """
    ids = registry.get_spec(env_name).panel("train", env_config).item_ids
    drawn = sorted(ids, key=base.stable_hash)[: 4 * count]
    solved = collect(env_name, env_config, drawn)
    solved.sort(key=lambda demonstration: sum(map(len, texts([demonstration]))))
    return [(item_id, exchanges) for item_id, _, exchanges in solved[:count]]


def rename(
    demonstrations: Sequence[Demonstration], draw: int = 0
) -> list[Demonstration]:
    """The demonstrations with other names in the place of their own.

    A name is a word that answers take from an observation, and that is not common to most
    demonstrations. All its places get the same new one: a name of other demonstrations, or
    a blend of two, which no demonstration has. What is left to learn is the copying, as in
    symbol tuning: https://arxiv.org/abs/2305.08298.

    Args:
      demonstrations: of one environment.
      draw: another number gives other names; they depend on it and the item ids alone.
    """
    copied = [_copied_words(demonstration) for demonstration in demonstrations]
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
        renamed.append(_replace_words(demonstration, table))
    return renamed


def texts(demonstrations: Iterable[Demonstration]) -> list[str]:
    """All observations and answers, to train a vocabulary on."""
    return [
        text
        for demonstration in demonstrations
        for exchange in demonstration.exchanges
        for text in exchange
    ]


def _copied_words(demonstration: Demonstration) -> set[str]:
    seen, copied = set(), set()
    for observation, answer in demonstration.exchanges:
        seen |= set(_WORD.findall(observation))
        copied |= seen & set(_WORD.findall(answer))
    return copied


def _blend(rng: random.Random, names: Sequence[str]) -> str:
    first, second = rng.choice(names), rng.choice(names)
    return first[: (len(first) + 1) // 2] + second[len(second) // 2 :]


def _replace_words(
    demonstration: Demonstration, table: dict[str, str]
) -> Demonstration:
    def replace(text: str) -> str:
        return _WORD.sub(lambda word: table.get(word[0], word[0]), text)

    exchanges = [
        (replace(seen), replace(said)) for seen, said in demonstration.exchanges
    ]
    return demonstration._replace(exchanges=exchanges)


def _play(
    env: base.Environment, item_id: str, thoughts: bool
) -> tuple[list[tuple[str, str]], base.StepResult]:
    observation = env.reset(item_id)
    oracle = episodes.make_oracle(env, "observational")
    exchanges = []
    while True:
        answer = oracle.act(observation)
        if not thoughts and "Action:" in answer:
            answer = answer[answer.index("Action:") :]
        exchanges.append((observation, answer))
        result = env.step(answer)
        if result.done:
            return exchanges, result
        observation = result.observation
