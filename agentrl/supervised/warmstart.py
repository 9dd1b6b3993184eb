"""Warm start: supervised fine-tuning on demonstrations of oracles or from a file.

A demonstration is an ordinary `Trajectory` whose actions come from the environment's
oracle, which sees only text, or from a file. It is packed and masked like a sampled one,
so that supervised and reinforcement learning stages share everything but the loss.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import numpy as np

from agentrl import config, errors, types
from agentrl.chat import history, renderer
from agentrl.envs import base, demonstrations, pool
from agentrl.supervised import datasets


def to_trajectory(
    env_name: str,
    item_id: str,
    messages: Sequence[renderer.Message],
    chat: renderer.Chat,
) -> types.Trajectory:
    """Tokenizes a conversation; the assistant messages to train on become actions."""
    turns = []
    answered = history.turns(chat, messages)
    for index, (extension, observation, answer) in enumerate(answered):
        action = [*chat.tokenizer.encode(answer), chat.tokenizer.stop_id]
        turns.append(
            types.Turn(
                observation_tokens=np.asarray(extension.tokens, np.int32),
                action_tokens=np.asarray(action, np.int32),
                action_logprobs=np.zeros(len(action), np.float32),
                observation=observation,
                action=answer,
                reward=float(index == len(answered) - 1),
                valid=True,
                num_cut=extension.num_cut,
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
    envs: pool.EnvPool,
    source: config.Supervised,
    chat: renderer.Chat,
    *,
    max_tokens: int,
    max_error_fraction: float = 0.1,
    counts: dict[str, tuple[int, int]] | None = None,
) -> list[types.Trajectory]:
    """Collects demonstrations that fit into an episode, by oracles or from a file.

    Conversations of a file are taken as written: the chat format adds no messages. One
    whose item id names no environment of the stage is attributed to the first of them.

    Args:
      panels: training tasks by environment.
      envs: in which the oracles play.
      source: number of demonstrations, or the file.
      chat: renders conversations.
      max_tokens: longer demonstrations are dropped.
      max_error_fraction: of the demonstrations, that environments may lose.
      counts: receives (demonstrations that fit, all) of each source, for a report.

    Raises:
      ConfigError: if a source has no demonstration that fits, or a file cannot be read.
      EnvFaultsError: if an environment loses more demonstrations.
    """
    if source.conversations:
        stored = {source.conversations: datasets.read(source.conversations)}
    else:
        stored = {
            env: _demonstrate(envs, panel, source, chat, max_error_fraction)
            for env, panel in panels.items()
        }
    kept = []
    for origin, found in stored.items():
        trajectories = []
        for item_id, messages in found:
            named = item_id.rpartition("_")[0]
            env_name = named if named in panels else next(iter(panels))
            trajectories.append(to_trajectory(env_name, item_id, messages, chat))
        fitting = [t for t in trajectories if t.max_context <= max_tokens]
        if counts is not None:
            counts[origin] = len(fitting), len(trajectories)
        if not fitting:
            raise errors.ConfigError(
                f"no demonstration of '{origin}' fits into rollout.max_tokens = "
                f"{max_tokens} tokens; raise it, or choose an easier tier."
            )
        kept += fitting
    return kept


def _demonstrate(
    envs: pool.EnvPool,
    panel: base.TaskPanel,
    source: config.Supervised,
    chat: renderer.Chat,
    max_error_fraction: float,
) -> list[tuple[str, list[renderer.Message]]]:
    """Plays the oracle on the first tasks of a panel; (item id, conversation) pairs."""
    solved = demonstrations.collect(
        envs,
        panel.env,
        panel.item_ids[: source.demonstrations],
        thoughts=source.thoughts,
        max_error_fraction=max_error_fraction,
    )
    copies = [
        demonstrations.rename(solved, draw, spellings=source.renamed_spellings)
        for draw in range(dict(source.renamed_copies).get(panel.env, 0))
    ]
    return [
        (item_id, chat.episode(instruction, exchanges, item_id))
        for item_id, instruction, exchanges in itertools.chain(solved, *copies)
    ]


def choose_batch(
    trajectories: Sequence[types.Trajectory],
    key: jax.Array,
    iteration: int,
    *,
    weights: Sequence[tuple[str, float]],
    batch_size: int,
) -> list[types.Trajectory]:
    """Chooses the demonstrations of one update, by the weights of their environments.

    Each epoch visits all demonstrations of an environment, in a new order. Every update
    has `batch_size` of them, if there are any.

    Args:
      trajectories: all demonstrations of the stage.
      key: PRNG key of the stage.
      iteration: of the stage.
      weights: (environment, unnormalised weight) pairs.
      batch_size: demonstrations of all environments together.
    """
    seed = int(jax.random.bits(key, dtype=np.uint32))
    groups = {env: [t for t in trajectories if t.task.env == env] for env, _ in weights}
    present = {env: weight for env, weight in weights if groups[env]}
    before, after = (
        _apportion(number * batch_size, list(present.values()))
        for number in (iteration, iteration + 1)
    )
    chosen = []
    for env, first, last in zip(present, before, after, strict=True):
        group = groups[env]
        chosen += [group[_nth(len(group), seed, n)] for n in range(first, last)]
    return chosen


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Divides a number of draws by weights: int for each, their sum is `total`.

    The method of Webster: draw k of weight w is due at (k + 1/2) / w, and the first
    `total` are taken. None loses a draw where `total` grows.
    """
    shares = [weight / sum(weights) for weight in weights]
    begun = max(total - len(shares), 0)  # a time at which at most `total` are due
    counts = [math.floor(begun * share + 0.5) for share in shares]
    while shares and sum(counts) < total:
        due = [
            (count + 0.5) / share if share else math.inf
            for count, share in zip(counts, shares, strict=True)
        ]
        counts[due.index(min(due))] += 1
    return counts


def _nth(size: int, seed: int, n: int) -> int:
    """Returns the index of the n-th draw: entry n % size of the order of its epoch."""
    epoch, offset = divmod(n, size)
    return int(np.random.default_rng((seed, epoch)).permutation(size)[offset])
