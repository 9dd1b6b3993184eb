"""Unfinished episodes of partial rollouts, as a checkpoint holds them, and back again."""

import dataclasses
from collections.abc import Sequence

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
