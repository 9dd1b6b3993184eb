"""Partial rollouts: episodes that one iteration begins and a later one trains on.

Between iterations their environments wait, and their caches are gone: they belong to the
parameters of before. An episode that goes on has its whole context prefilled with the new
ones. So what it does next is a function of its tokens and of the parameters, and a
checkpoint that holds the tokens is enough to go on exactly: the environment is brought back
by playing the recorded actions again.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from agentrl import types
from agentrl.rollout import live


@dataclasses.dataclass
class PartialRollout:
    """The groups of one process that no iteration has trained on yet.

    Groups are numbered through the stage, also over processes.
    """

    episodes: list[live.Episode]  # unfinished, in the order in which they get slots
    # Of groups that are not complete, or not needed yet.
    finished: list[types.Trajectory]
    num_drawn: int = 0  # groups of the stage so far, of all processes

    @property
    def num_groups(self) -> int:
        """Groups of this process."""
        return len({e.task.group for e in (*self.episodes, *self.finished)})

    @property
    def num_begun(self) -> int:
        """Unfinished episodes in which the policy has acted."""
        return sum(episode.has_begun for episode in self.episodes)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a rollout plays for."""

    num_groups: int  # of this process, complete ones
    group_size: int
    # Groups with an episode of an older policy are completed: the next iteration would
    # train on them too late.
    oldest_step: int

    def choose(
        self,
        finished: Iterable[types.Trajectory],
        unfinished: Iterable[live.Episode],
    ) -> list[list[types.Trajectory]] | None:
        """Chooses the complete groups to train on, or None if there are not enough.

        Args:
          finished: episodes, in any order.
          unfinished: episodes.

        Returns:
          `num_groups` groups of `group_size` episodes, in the order of their numbers;
          those of the oldest policies take precedence.
        """
        groups: dict[int, list[types.Trajectory]] = collections.defaultdict(list)
        for trajectory in finished:
            groups[trajectory.task.group].append(trajectory)
        complete = {g: e for g, e in groups.items() if len(e) == self.group_size}
        if len(complete) < self.num_groups:
            return None
        steps = [e.policy_step for g in groups.keys() - complete for e in groups[g]]
        steps += [episode.policy_step for episode in unfinished if episode.has_begun]
        if any(step < self.oldest_step for step in steps):
            return None

        def age(group: int) -> tuple[int, int]:
            return min(e.policy_step for e in complete[group]), group

        chosen = sorted(sorted(complete, key=age)[: self.num_groups])
        return [
            sorted(complete[group], key=lambda e: e.task.sample) for group in chosen
        ]


def number_groups(
    groups: Sequence[types.Trajectory], size: int
) -> list[types.Trajectory]:
    """Numbers the groups of an iteration from 0, in the order in which they stand.

    Args:
      groups: episodes, `size` of each group in a row.
      size: of a group.
    """
    return [
        dataclasses.replace(
            trajectory, task=dataclasses.replace(trajectory.task, group=index // size)
        )
        for index, trajectory in enumerate(groups)
    ]
