"""Supervised warm start: demonstrations by the environments' own oracles, or stored ones.

A demonstration is an ordinary `Trajectory` whose actions come from an oracle that sees
only text, or from a file. It is packed and masked like a sampled one, so that supervised
and reinforcement stages share everything but the loss.
"""

import itertools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from agentrl import config, errors, types
from agentrl.chat import datasets, renderer
from agentrl.envs import base, demonstrations


def to_trajectory(
    env_name: str,
    item_id: str,
    messages: Sequence[renderer.Message],
    chat: renderer.Chat,
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
    chat: renderer.Chat,
    *,
    max_tokens: int,
    counts: dict[str, tuple[int, int]] | None = None,
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
        stored[str(path)] = datasets.read(path)
    for env_name, panel in {} if stored else panels.items():
        solved = demonstrations.collect(
            env_name,
            env_configs[env_name],
            panel.item_ids[: warm_start.demonstrations],
            thoughts=warm_start.thoughts,
        )
        copies = [
            demonstrations.rename(solved, draw)
            for draw in range(dict(warm_start.renamed_copies).get(env_name, 0))
        ]
        stored[env_name] = [
            (item_id, chat.episode(instruction, exchanges, item_id))
            for item_id, instruction, exchanges in itertools.chain(solved, *copies)
        ]
    kept = []
    for source, found in stored.items():
        trajectories = []
        for item_id, messages in found:
            named = item_id.rpartition("_")[0]
            env_name = named if named in panels else next(iter(panels))
            trajectories.append(to_trajectory(env_name, item_id, messages, chat))
        fitting = [t for t in trajectories if t.num_tokens <= max_tokens]
        if counts is not None:  # for a report: how many fit, of how many
            counts[source] = len(fitting), len(trajectories)
        if not fitting:
            raise errors.ConfigError(
                f"no demonstration of '{source}' fits into rollout.max_tokens = "
                f"{max_tokens} tokens; raise it, or choose an easier tier."
            )
        kept += fitting
    return kept


def choose_batch(
    trajectories: Sequence[types.Trajectory],
    key: jax.Array,
    iteration: int,
    settings: config.StageConfig,
) -> list[types.Trajectory]:
    """The demonstrations of one update, each environment's by its weight in the mixture.

    Each epoch visits all demonstrations of an environment, in a new order.
    """
    seed = int(jax.random.bits(key, dtype=np.uint32))
    weights = dict(settings.mixture.environments)
    groups = {env: [t for t in trajectories if t.task.env == env] for env in weights}
    total = sum(weights[env] for env in groups if groups[env])
    chosen = []
    for env, group in groups.items():
        share = settings.warm_start.episodes_per_step * weights[env] / total
        draws = range(round(iteration * share), round((iteration + 1) * share))
        chosen += [group[_nth(len(group), seed, n)] for n in draws if group]
    return chosen


def _nth(size: int, seed: int, n: int) -> int:
    epoch, place = divmod(n, size)
    return int(np.random.default_rng((seed, epoch)).permutation(size)[place])
