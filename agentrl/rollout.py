"""Collecting trajectories: slots, cohorts and turns.

Every episode lives in a slot: a row of a cohort's key-value cache and a seat in the
environment pool. A turn of a cohort is

  1. receive   the environments' replies to its last actions             (host)
  2. refill    slots whose episode has ended with the next waiting ones  (host)
  3. act       append the new observation tokens and decode actions      (device)
  4. send      the actions to the environments                           (host)

With two cohorts, one decodes while the environments of the other step. Slots are served in
a fixed order and a cohort waits for all its replies, so what an episode sees never depends
on timing: a run repeats bit for bit.
"""

import collections
import dataclasses
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from agentrl import policy as policies
from agentrl import types
from agentrl.text import chat as chats
from envs import pool as pools


@dataclasses.dataclass
class Statistics:
    """What a rollout cost; `summarize` turns it into metrics."""

    seconds: float = 0.0
    env_wait_seconds: float = 0.0  # waiting for environments with nothing on the device
    decoded_tokens: int = 0
    appended_tokens: int = 0
    slot_turns: int = 0  # rows x turns that were paid for
    live_slot_turns: int = 0  # of these, rows with an episode

    def __add__(self, other: "Statistics") -> "Statistics":
        ours, theirs = vars(self), vars(other)
        return Statistics(**{name: ours[name] + theirs[name] for name in ours})

    def summarize(self) -> types.Metrics:
        """Metrics `perf/*` of one rollout."""
        seconds = max(self.seconds, 1e-9)
        return {
            "perf/decode_tokens_per_second": self.decoded_tokens / seconds,
            "perf/prefill_tokens_per_second": self.appended_tokens / seconds,
            "perf/env_wait_fraction": self.env_wait_seconds / seconds,
            "perf/slot_occupancy": self.live_slot_turns / max(self.slot_turns, 1),
        }


@dataclasses.dataclass
class _Episode:
    """An episode under way."""

    index: int  # position among the tasks of this rollout; names its randomness
    task: types.Task
    tokens: list[int] = dataclasses.field(default_factory=list)  # new, not yet appended
    observation: str = ""
    carry: list[int] = dataclasses.field(default_factory=list)  # last sampled token
    used: int = 0  # tokens of all finished turns
    turns: list[types.Turn] = dataclasses.field(default_factory=list)
    action: policies.Action | None = None
    action_text: str = ""
    score: float = 0.0

    def budget(self, max_tokens: int, max_action_tokens: int) -> int:
        """Tokens the next action may have; none or fewer if the episode is full."""
        return min(max_action_tokens, max_tokens - self.used - len(self.tokens))


@dataclasses.dataclass
class _Seats:
    """A cohort of the policy with the episode of each row, and the turn under way."""

    first_slot: int
    cohort: policies.Cohort
    episodes: dict[int, _Episode] = dataclasses.field(default_factory=dict)  # by row
    pending: policies.PendingActions | None = None


class Collector:
    """Plays lists of tasks with one policy in one pool of environments."""

    def __init__(self, policy: policies.Policy, pool: pools.EnvPool, chat: chats.Chat):
        self._policy = policy
        self._pool = pool
        self._chat = chat
        rollout = policy.rollout
        self._rollout = rollout
        self._seats = [
            _Seats(index * policy.rows_per_cohort, policy.new_cohort())
            for index in range(rollout.num_cohorts)
        ]

    def collect(
        self,
        params: types.PyTree,
        tasks: Sequence[types.Task],
        *,
        key: jax.Array,
        policy_step: int,
        max_turns: int | None = None,
    ) -> tuple[list[types.Trajectory], Statistics]:
        """Plays every task once.

        Args:
          params: parameters in the rollout's layout.
          tasks: episodes to play, in the order in which they get slots.
          key: names the randomness, together with each episode's index and turn.
          policy_step: updates behind `params`, recorded in the trajectories.
          max_turns: the stage's horizon; the environments have limits of their own.

        Returns:
          Trajectories in the order of `tasks`, and what they cost.
        """
        started = time.perf_counter()
        play = _Play(self._policy, self._pool, self._chat, params, key, max_turns)
        play.policy_step = policy_step
        play.waiting.extend(_Episode(i, task) for i, task in enumerate(tasks))
        busy: _Seats | None = None  # the cohort whose turn is on the device
        while play.waiting or any(seats.episodes for seats in self._seats):
            for seats in self._seats:
                if busy is seats:
                    play.send(seats)
                    busy = None
                play.receive(seats, device_idle=busy is None)
                play.act(seats)
                if busy is not None:
                    play.send(busy)
                busy = seats if seats.pending is not None else None
        play.statistics.seconds = time.perf_counter() - started
        return [play.finished[i] for i in range(len(tasks))], play.statistics


class _Play:
    """One call of `Collector.collect`."""

    def __init__(
        self,
        policy: policies.Policy,
        pool: pools.EnvPool,
        chat: chats.Chat,
        params: types.PyTree,
        key: jax.Array,
        max_turns: int | None,
    ):
        self.waiting: collections.deque[_Episode] = collections.deque()
        self.finished: dict[int, types.Trajectory] = {}
        self.statistics = Statistics()
        self.policy_step = 0
        self._policy, self._pool, self._chat = policy, pool, chat
        self._params, self._key, self._max_turns = params, key, max_turns

    def receive(self, seats: _Seats, *, device_idle: bool) -> None:
        """Takes in the replies of a cohort and fills its free slots."""
        self._receive(seats, seats.episodes, device_idle)
        while self.waiting and len(seats.episodes) < self._policy.rows_per_cohort:
            free = (
                row
                for row in range(self._policy.rows_per_cohort)
                if row not in seats.episodes
            )
            started = {row: self.waiting.popleft() for row in free if self.waiting}
            seats.episodes |= started
            seats.cohort.lengths[list(started)] = 0
            self._pool.send_reset(
                {
                    seats.first_slot + row: episode.task.item_id
                    for row, episode in started.items()
                }
            )
            self._receive(seats, started, device_idle)  # one may fail at once

    def act(self, seats: _Seats) -> None:
        """Starts the next action of every live row."""
        if not seats.episodes:
            return
        limits = self._policy.rollout
        inputs = {}
        for row, episode in seats.episodes.items():
            budget = episode.budget(limits.max_tokens, limits.max_action_tokens)
            stream = (episode.index, len(episode.turns))
            chunk = episode.carry + episode.tokens
            inputs[row] = policies.RowInput(chunk, stream, budget)
            self.statistics.appended_tokens += len(chunk)
        seats.pending = self._policy.act(self._params, seats.cohort, inputs, self._key)
        self.statistics.slot_turns += self._policy.rows_per_cohort
        self.statistics.live_slot_turns += len(inputs)

    def send(self, seats: _Seats) -> None:
        """Waits for the actions of a cohort and sends them to the environments."""
        if seats.pending is None:
            return
        actions = self._policy.fetch(seats.cohort, seats.pending)
        seats.pending = None
        texts = {}
        for row, action in actions.items():
            episode = seats.episodes[row]
            episode.action = action
            episode.action_text = self._chat.tokenizer.decode(action.tokens.tolist())
            self.statistics.decoded_tokens += len(action.tokens)
            if action.tokens[-1] == self._chat.tokenizer.stop_id:
                texts[seats.first_slot + row] = episode.action_text
            else:  # cut off: half an action is never sent
                self._end_turn(episode, reward=0.0, valid=False)
                self._finish(seats, row, types.Ending.MAX_TOKENS)
        self._pool.send_step(texts)

    def _receive(self, seats: _Seats, rows: Iterable[int], device_idle: bool) -> None:
        slots = [seats.first_slot + row for row in rows]
        if not slots:
            return
        started = time.perf_counter()
        replies = self._pool.receive(slots)
        if device_idle:
            self.statistics.env_wait_seconds += time.perf_counter() - started
        for slot in sorted(replies):
            self._take(seats, slot - seats.first_slot, replies[slot])

    def _take(self, seats: _Seats, row: int, reply: pools.Reply) -> None:
        """Applies one reply: the episode goes on, or ends."""
        episode = seats.episodes[row]
        if reply.result is None:
            if episode.action is not None:
                self._end_turn(episode, reward=0.0, valid=False)
            ending = (
                types.Ending.ENV_TIMEOUT if reply.timed_out else types.Ending.ENV_ERROR
            )
            self._finish(seats, row, ending, error=reply.error or "")
            return
        result = reply.result
        if episode.action is None:
            item_id = episode.task.item_id
            observed = self._chat.open(
                reply.instruction or "", result.observation, item_id
            )
        else:
            info = result.info
            self._end_turn(episode, reward=result.reward, valid=info.valid_action)
            episode.score = info.score
            if ending := self._ending(episode, result):
                episode.observation = result.observation
                self._finish(seats, row, ending, success=info.success)
                return
            observed = self._chat.extend(result.observation)
        episode.observation = result.observation
        episode.tokens = observed
        limits = self._policy.rollout
        if episode.budget(limits.max_tokens, limits.max_action_tokens) < 1:
            self._finish(seats, row, types.Ending.MAX_TOKENS)

    def _ending(self, episode: _Episode, result) -> types.Ending | None:
        if result.terminated:
            solved = result.info.success
            return types.Ending.SOLVED if solved else types.Ending.FAILED
        at_horizon = self._max_turns and len(episode.turns) >= self._max_turns
        if result.truncated or at_horizon:
            return types.Ending.MAX_TURNS
        return None

    def _end_turn(self, episode: _Episode, *, reward: float, valid: bool) -> None:
        """Closes the turn whose action was sampled last."""
        assert episode.action is not None
        turn = types.Turn(
            observation_tokens=np.asarray(episode.tokens, np.int32),
            action_tokens=episode.action.tokens,
            action_logprobs=episode.action.logprobs,
            observation=episode.observation,
            action=episode.action_text,
            reward=reward,
            valid=valid,
        )
        episode.turns.append(turn)
        episode.used += len(turn.observation_tokens) + len(turn.action_tokens)
        episode.carry = [int(turn.action_tokens[-1])]

    def _finish(
        self,
        seats: _Seats,
        row: int,
        ending: types.Ending,
        *,
        success: bool = False,
        error: str = "",
    ) -> None:
        episode = seats.episodes.pop(row)
        self.finished[episode.index] = types.Trajectory(
            task=episode.task,
            turns=tuple(episode.turns),
            ending=ending,
            policy_step=self.policy_step,
            success=success,
            score=episode.score,
            final_observation=episode.observation,
            error=error,
        )
