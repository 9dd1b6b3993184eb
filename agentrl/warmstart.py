"""Supervised warm start: demonstrations by the environments' own oracles, or stored ones.

A demonstration is an ordinary `Trajectory` whose actions come from an oracle that sees
only text, or from a file. It is packed and masked like a sampled one, so that supervised
and reinforcement stages share everything but the loss.
"""

import pathlib
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from agentrl import config, errors, types
from agentrl.text import chat as chats
from envs import base, registry
from pretrained import conversations


def play_oracle(
    env: base.Environment, item_id: str, *, thoughts: bool
) -> tuple[list[tuple[str, str]], base.StepResult]:
    """Plays one task with the observational oracle.

    Returns:
      (observation, answer) of every turn, and the last result.
    """
    observation = env.reset(item_id)
    oracle = registry.get_spec(env.name).oracles["observational"](env)
    exchanges = []
    while True:
        answer = oracle.act(observation)
        if not thoughts:
            answer = (
                answer[answer.index("Action:") :] if "Action:" in answer else answer
            )
        exchanges.append((observation, answer))
        result = env.step(answer)
        if result.done:
            return exchanges, result
        observation = result.observation


def collect_transcripts(
    env_name: str,
    env_config: base.EnvConfig,
    item_ids: Sequence[str],
    *,
    thoughts: bool,
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Solved demonstrations as (item id, instruction, exchanges); failed ones drop out."""
    env = registry.make(env_name, env_config)
    kept = []
    for item_id in item_ids:
        exchanges, result = play_oracle(env, item_id, thoughts=thoughts)
        if result.info.success:
            kept.append((item_id, env.instruction, exchanges))
    return kept


def collect_examples(settings: config.RunConfig) -> dict[str, list[chats.Example]]:
    """Solved training tasks of each environment, to show before others.

    The shortest of a fixed draw; one more than shown, as none is shown before itself.

    Raises:
      ConfigError: if the oracle solves too few.
    """
    examples = {}
    wanted = settings.tokenizer.few_shot and settings.tokenizer.few_shot + 1
    for name, env_config in settings.environments.items() if wanted else ():
        ids = registry.get_spec(name).panel("train", env_config).item_ids
        drawn = sorted(ids, key=base.stable_hash)[: 4 * wanted]
        solved = collect_transcripts(name, env_config, drawn, thoughts=True)
        solved.sort(key=lambda transcript: sum(map(len, corpus([transcript]))))
        if len(solved) < wanted:
            raise errors.ConfigError(
                f"tokenizer.few_shot = {wanted - 1} needs {wanted} solved tasks, but the "
                f"oracle of '{name}' solves {len(solved)} of {len(drawn)}."
            )
        examples[name] = [(item_id, shown) for item_id, _, shown in solved[:wanted]]
    return examples


def to_trajectory(
    env_name: str, item_id: str, messages: Sequence[chats.Message], chat: chats.Chat
) -> types.Trajectory:
    """Tokenizes a conversation; its trained answers are the actions."""
    turns = []
    answered = chat.turns(messages)
    for index, (context, observation, answer) in enumerate(answered):
        action = [*chat.tokenizer.encode(answer), chat.tokenizer.stop_id]
        turns.append(
            types.Turn(
                observation_tokens=np.asarray(context, np.int32),
                action_tokens=np.asarray(action, np.int32),
                action_logprobs=np.zeros(len(action), np.float32),
                observation=observation,
                action=answer,
                reward=float(index == len(answered) - 1),
                valid=True,
            )
        )
    return types.Trajectory(
        task=types.Task(env_name, item_id, group=0, sample=0),
        turns=tuple(turns),
        ending=types.Ending.SOLVED,
        policy_step=0,
        success=True,
        score=1.0,
    )


def collect_demonstrations(
    panels: dict[str, base.TaskPanel],
    env_configs: dict[str, base.EnvConfig],
    warm_start: config.WarmStartConfig,
    chat: chats.Chat,
    *,
    max_tokens: int,
) -> list[types.Trajectory]:
    """Demonstrations that fit into an episode, of the first tasks or from a file.

    Conversations of a file are taken as written: the frame adds no messages. Metrics count
    one whose item id names no environment of the stage for the stage's first.

    Raises:
      ConfigError: if nothing is left to train on, or a file cannot be read.
    """
    stored = {}
    if warm_start.conversations:
        path = pathlib.Path(warm_start.conversations)
        stored[str(path)] = conversations.read(path)
    for env_name, panel in {} if stored else panels.items():
        stored[env_name] = [
            (item_id, chat.episode(instruction, exchanges, item_id))
            for item_id, instruction, exchanges in collect_transcripts(
                env_name,
                env_configs[env_name],
                panel.item_ids[: warm_start.demonstrations],
                thoughts=warm_start.thoughts,
            )
        ]
    demonstrations = []
    for source, talks in stored.items():
        trajectories = []
        for item_id, messages in talks:
            named = item_id.rpartition("_")[0]
            env_name = named if named in panels else next(iter(panels))
            trajectories.append(to_trajectory(env_name, item_id, messages, chat))
        fitting = [t for t in trajectories if t.num_tokens <= max_tokens]
        if not fitting:
            raise errors.ConfigError(
                f"no demonstration of '{source}' fits into rollout.max_tokens = "
                f"{max_tokens} tokens; raise it, or choose an easier tier."
            )
        demonstrations += fitting
    return demonstrations


def choose_batch(
    demonstrations: Sequence[types.Trajectory],
    key: jax.Array,
    iteration: int,
    episodes_per_step: int,
) -> list[types.Trajectory]:
    """The demonstrations of one update: each epoch visits all of them in a new order."""
    seed = int(jax.random.bits(key, dtype=np.uint32))
    first = iteration * episodes_per_step
    return [
        demonstrations[_nth(len(demonstrations), seed, n)]
        for n in range(first, first + episodes_per_step)
    ]


def corpus(transcripts: Iterable[tuple[str, str, list[tuple[str, str]]]]) -> list[str]:
    """All text of some demonstrations, to train a vocabulary on."""
    return [
        text
        for _, _, exchanges in transcripts
        for exchange in exchanges
        for text in exchange
    ]


def _nth(size: int, seed: int, n: int) -> int:
    epoch, place = divmod(n, size)
    return int(np.random.default_rng((seed, epoch)).permutation(size)[place])
