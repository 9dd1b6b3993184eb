"""Tasks as the environments' own oracles solve them, to learn from and to show."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from envs import base, episodes, registry


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
    """Demonstrations by the observational oracle; tasks it fails drop out."""
    env = registry.make(env_name, env_config)
    solved = []
    for item_id in item_ids:
        exchanges, result = _play(env, item_id, thoughts)
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


def texts(demonstrations: Iterable[Demonstration]) -> list[str]:
    """All observations and answers, to train a vocabulary on."""
    return [
        text
        for demonstration in demonstrations
        for exchange in demonstration.exchanges
        for text in exchange
    ]


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
