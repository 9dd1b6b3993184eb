"""Tokens of an environment's tasks, as a model's tokenizer and chat format count them."""

import dataclasses
from collections.abc import Iterator, Sequence

from agentrl import config, errors, types
from agentrl.chat import renderer
from agentrl.envs import demonstrations, pool, registry, tasks
from agentrl.supervised import warmstart

_RESET_AT_ONCE = 32
_SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What was measured of one environment."""

    env: str
    num_tasks: int  # of both panels
    prompts: tuple[int, ...]  # tokens before the first action, of the tasks looked at
    num_lost: int  # of these, tasks that the environment could not start
    episodes: tuple[types.Trajectory, ...]  # as the oracle plays
    max_turns: int

    @property
    def looked_at_all(self) -> bool:
        """Whether no task is left whose first observation may be longer."""
        return len(self.prompts) + self.num_lost == self.num_tasks

    @property
    def observations(self) -> list[int]:
        """Tokens between two actions."""
        return [
            len(turn.observation_tokens) for t in self.episodes for turn in t.turns[1:]
        ]

    @property
    def actions(self) -> list[int]:
        """Tokens of an action, its stop token included."""
        return [len(turn.action_tokens) for t in self.episodes for turn in t.turns]

    @property
    def lengths(self) -> list[int]:
        """Tokens of an episode."""
        return [t.num_tokens for t in self.episodes]


def measure(
    name: str,
    settings: config.RunConfig,
    chat: renderer.Chat,
    environments: pool.EnvPool,
    *,
    num_prompts: int,
    num_episodes: int,
    thoughts: bool = True,
) -> Tokens:
    """Resets tasks of both panels, and lets the oracle play some of the training tasks.

    Args:
      name: of the environment.
      settings: configures it.
      chat: renders conversations.
      environments: plays it.
      num_prompts: tasks of each panel to reset, spread over it; 0 takes all.
      num_episodes: tasks for the oracle, spread likewise.
      thoughts: whether its answers keep their thoughts.

    Raises:
      ConfigError: if no task can be started, or the oracle solves none.
    """
    env_config = settings.environments[name]
    panels = [tasks.select_tasks(name, split, env_config) for split in _SPLITS]
    chosen = [item for panel in panels for item in spread(panel.item_ids, num_prompts)]
    prompts = list(_count_prompts(chosen, chat, environments))
    solved = demonstrations.collect(
        environments,
        name,
        spread(panels[0].item_ids, num_episodes),
        thoughts=thoughts,
        max_error_fraction=1.0,
    )
    if not prompts or not solved:
        raise errors.ConfigError(
            f"of {len(chosen)} tasks of '{name}' {len(prompts)} could be started, and the "
            f"oracle solved {len(solved)} of {num_episodes}: there is nothing to measure. "
            f"`agentrl play --env={name}` shows why."
        )
    episodes = [
        warmstart.to_trajectory(
            name, item, chat.episode(instruction, exchanges, item), chat
        )
        for item, instruction, exchanges in solved
    ]
    return Tokens(
        env=name,
        num_tasks=sum(len(panel.item_ids) for panel in panels),
        prompts=tuple(prompts),
        num_lost=len(chosen) - len(prompts),
        episodes=tuple(episodes),
        max_turns=registry.make(name, env_config).max_turns,
    )


def spread(items: Sequence[str], count: int) -> list[str]:
    """Returns `count` of the items, evenly spread; all of them for 0 or too many."""
    if not count or count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _count_prompts(
    items: Sequence[str], chat: renderer.Chat, environments: pool.EnvPool
) -> Iterator[int]:
    for start in range(0, len(items), _RESET_AT_ONCE):
        part = dict(enumerate(items[start : start + _RESET_AT_ONCE]))
        environments.send_reset(part)
        for slot, reply in environments.receive(range(len(part))).items():
            if reply.result is not None:
                first = reply.result.observation
                yield len(chat.open(reply.instruction or "", first, part[slot]))
