"""Partial rollouts: episodes that one iteration begins and a later one trains on.

Between iterations their environments wait, and their caches are gone: they belong to the
parameters of before. An episode that goes on has its whole context prefilled with the new
ones. So what it does next is a function of its tokens and of the parameters, and a
checkpoint that holds the tokens is enough to go on exactly: the environment is brought back
by playing the recorded actions again.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax

from agentrl import types
from agentrl.chat import renderer
from agentrl.engine import engine
from agentrl.envs import pool
from agentrl.parallel import processes
from agentrl.rollout import live


@dataclasses.dataclass(frozen=True)
class BegunEpisode:
    """An unfinished episode, as a checkpoint holds it."""

    task: types.Task
    stream: int
    policy_step: int  # of its first turn; -1 if it has none
    observation: str  # the newest, which no turn holds yet
    turns: tuple[types.Turn, ...] = ()
    thought: engine.SlotOutput | None = None  # that the next tokens go on with

    @property
    def untouched(self) -> bool:
        """Whether the policy has not acted in it."""
        return not self.turns and self.thought is None


@dataclasses.dataclass
class PartialRollout:
    """The groups of one process that no iteration has trained on yet.

    Groups are numbered through the stage, also over processes.
    """

    episodes: list[live.Episode]  # unfinished, in the order in which they get slots
    finished: list[
        types.Trajectory
    ]  # of groups that are not complete, or not needed yet
    num_drawn: int = 0  # groups of the stage so far, of all processes

    @property
    def num_groups(self) -> int:
        """Groups of this process."""
        return len({e.task.group for e in (*self.episodes, *self.finished)})

    @property
    def num_begun(self) -> int:
        """Unfinished episodes in which the policy has acted."""
        return sum(not describe(e).untouched for e in self.episodes)


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
          `num_groups` groups of `group_size` episodes, those of the oldest policies first.
        """
        groups: dict[int, list[types.Trajectory]] = collections.defaultdict(list)
        for trajectory in finished:
            groups[trajectory.task.group].append(trajectory)
        complete = {g: e for g, e in groups.items() if len(e) == self.group_size}
        if len(complete) < self.num_groups:
            return None
        begun = [e for g, of in groups.items() if g not in complete for e in of]
        begun += [e for e in unfinished if e.policy_step >= 0]
        if any(episode.policy_step < self.oldest_step for episode in begun):
            return None

        def age(group: int) -> tuple[int, int]:
            return min(e.policy_step for e in complete[group]), group

        chosen = sorted(complete, key=age)[: self.num_groups]
        return [
            sorted(complete[group], key=lambda e: e.task.sample) for group in chosen
        ]


def describe(episode: live.Episode) -> BegunEpisode:
    """Describes an unfinished episode."""
    return BegunEpisode(
        episode.task,
        episode.stream,
        episode.policy_step,
        episode.observation,
        tuple(episode.turns),
        episode.thought,
    )


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


def share(
    begun: Sequence[Sequence[BegunEpisode]],
    finished: Sequence[Sequence[types.Trajectory]],
) -> tuple[list[BegunEpisode], list[types.Trajectory]]:
    """Returns what this process goes on with of what all processes have saved.

    Args:
      begun: unfinished episodes of each process that saved.
      finished: likewise, the finished ones of the same groups.
    """
    if len(begun) == jax.process_count():
        mine = jax.process_index()
        return list(begun[mine]), list(finished[mine])
    everything = [e for of_one in (*begun, *finished) for e in of_one]
    numbers = sorted({episode.task.group for episode in everything})
    kept = {numbers[i] for i in processes.local_slice(len(numbers))}
    return (
        [e for of_one in begun for e in of_one if e.task.group in kept],
        [e for of_one in finished for e in of_one if e.task.group in kept],
    )


def reopen(
    begun: Sequence[BegunEpisode], environments: pool.EnvPool, chat: renderer.Chat
) -> list[live.Episode]:
    """Brings unfinished episodes and their environments back, action by action.

    An episode whose environment answers otherwise than it did begins anew.

    Args:
      begun: the episodes.
      environments: plays them, in the slots from 0 on.
      chat: of the run.

    Returns:
      The episodes in the same order. Those in which the policy has not acted have no
      environment yet.
    """
    episodes = [live.Episode(0, one.task, one.stream, chat=chat) for one in begun]
    going = {i: i for i, one in enumerate(begun) if not one.untouched}
    environments.send_reset({i: begun[i].task.item_id for i in going})
    turn = 0
    while going:
        replies = environments.receive(list(going))
        for slot in list(going):
            one = begun[slot]
            if not _follows(replies[slot], one, turn, episodes[slot]):
                episodes[slot] = live.Episode(0, one.task, one.stream, chat=chat)
                del going[slot]
            elif turn == len(one.turns):
                episodes[slot].go_on(slot, one.policy_step, one.thought)
                del going[slot]
        sent: Mapping[int, str] = {
            slot: _act(episodes[slot], begun[slot].turns[turn]) for slot in going
        }
        environments.send_step(sent)
        turn += 1
    return episodes


def _follows(
    reply: pool.Reply, recorded: BegunEpisode, turn: int, episode: live.Episode
) -> bool:
    """Takes an environment's answer; returns whether it is what was recorded."""
    result, following = reply.result, recorded.turns[turn:]
    if result is None or result.terminated or result.truncated:
        return False
    if episode.turns:
        episode.extend(result.observation)
        episode.score = result.info.score
    else:
        episode.open(reply.instruction or "", result.observation)
    if not following:
        return result.observation == recorded.observation
    same_tokens = following[0].observation_tokens.tolist() == episode.tokens
    return same_tokens and result.observation == following[0].observation


def _act(episode: live.Episode, turn: types.Turn) -> str:
    """Records a turn again; returns the text that the environment gets."""
    episode.repeat(turn)
    return turn.action
