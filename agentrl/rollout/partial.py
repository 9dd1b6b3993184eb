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

import jax

from agentrl import errors, types
from agentrl.chat import renderer
from agentrl.engine import engine
from agentrl.envs import pool
from agentrl.parallel import processes
from agentrl.rollout import live


@dataclasses.dataclass(frozen=True)
class UnfinishedEpisode:
    """An unfinished episode, as a checkpoint holds it."""

    task: types.Task
    stream: int
    policy_step: int  # of its first turn; -1 if the policy has not acted in it
    observation: str  # the newest, which no turn holds yet
    turns: tuple[types.Turn, ...] = ()
    thought: engine.SlotOutput | None = None  # that the next tokens go on with

    @property
    def has_begun(self) -> bool:
        """Whether the policy has acted in it."""
        return self.policy_step >= 0


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


def describe(episode: live.Episode) -> UnfinishedEpisode:
    """Describes an unfinished episode."""
    return UnfinishedEpisode(
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
    unfinished: Sequence[Sequence[UnfinishedEpisode]],
    finished: Sequence[Sequence[types.Trajectory]],
) -> tuple[list[UnfinishedEpisode], list[types.Trajectory]]:
    """Returns what this process goes on with of what all processes have saved.

    Args:
      unfinished: unfinished episodes of each process that saved.
      finished: likewise, the finished ones of the same groups.

    Raises:
      ConfigError: if the processes cannot have equally many groups each.
    """
    if len(unfinished) == jax.process_count():
        mine = jax.process_index()
        return list(unfinished[mine]), list(finished[mine])
    everything = [e for of_one in (*unfinished, *finished) for e in of_one]
    numbers = sorted({episode.task.group for episode in everything})
    if len(numbers) % jax.process_count():
        raise errors.ConfigError(
            f"the checkpoint holds {len(numbers)} groups that go on (extra_groups), which "
            f"{jax.process_count()} hosts cannot share equally; go on with "
            f"{len(unfinished)}, as before."
        )
    kept = {numbers[i] for i in processes.local_slice(len(numbers))}
    return (
        [e for of_one in unfinished for e in of_one if e.task.group in kept],
        [e for of_one in finished for e in of_one if e.task.group in kept],
    )


def restore(
    unfinished: Sequence[UnfinishedEpisode],
    environments: pool.EnvPool,
    chat: renderer.Chat,
) -> list[live.Episode]:
    """Brings unfinished episodes and their environments back, action by action.

    An episode whose environment answers otherwise than it did begins anew.

    Args:
      unfinished: the episodes.
      environments: plays them, in the slots from 0 on.
      chat: of the run.

    Returns:
      The episodes in the same order. Those in which the policy has not acted have no
      environment yet.
    """

    def make(index: int) -> live.Episode:
        one = unfinished[index]
        return live.Episode(0, one.task, one.stream, chat=chat)

    episodes = [make(index) for index in range(len(unfinished))]
    going = [index for index, one in enumerate(unfinished) if one.has_begun]
    total, turn, lost = len(going), 0, 0
    environments.send_reset({i: unfinished[i].task.item_id for i in going})
    while going:
        replies, actions = environments.receive(going), {}
        for slot in going:
            one, episode = unfinished[slot], episodes[slot]
            if not _follows(replies[slot], one, turn, episode):
                episodes[slot] = make(slot)
                lost += 1
            elif turn == len(one.turns):
                episode.resume(slot, one.policy_step, one.thought)
            else:
                episode.repeat(one.turns[turn])
                actions[slot] = one.turns[turn].action
        environments.send_step(actions)
        going, turn = list(actions), turn + 1
    if lost:
        print(
            f"{lost} of {total} episodes that go on begin anew: their environments "
            "answered otherwise than before the interruption.",
            flush=True,
        )
    return episodes


def _follows(
    reply: pool.Reply, recorded: UnfinishedEpisode, turn: int, episode: live.Episode
) -> bool:
    """Takes an environment's answer; returns whether it is what was recorded."""
    result, following = reply.result, recorded.turns[turn:]
    if result is None or result.terminated or result.truncated:
        return False
    if turn:
        answered = recorded.turns[turn - 1]
        if (answered.reward, answered.valid) != (
            result.reward,
            result.info.valid_action,
        ):
            return False
        episode.extend(result.observation)
        episode.score = result.info.score
    else:
        episode.open(reply.instruction or "", result.observation)
    if not following:
        return result.observation == recorded.observation
    same_tokens = following[0].observation_tokens.tolist() == episode.tokens
    return same_tokens and result.observation == following[0].observation
