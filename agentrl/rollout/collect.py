"""Collecting trajectories: slots, cohorts and turns.

Every episode lives in a slot: a row of a cohort's key-value cache and a seat in the
environment pool. A turn of a cohort is

  1. receive   the environments' replies to its last actions             (host)
  2. refill    slots whose episode has ended with the next waiting ones  (host)
  3. act       append the new observation tokens and decode actions      (device)
  4. send      the actions to the environments                           (host)

With two cohorts, one decodes while the environments of the other step. Cohorts act in a
fixed order, each after all its replies, so what an episode sees never depends on timing:
a run repeats bit for bit. When nobody waits any more, cohorts narrow to their live rows.
"""

import collections
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from agentrl import types
from agentrl.chat import renderer
from agentrl.envs import pool as pools
from agentrl.parallel import processes
from agentrl.rollout import engine


@dataclasses.dataclass
class Statistics:
    """What a rollout cost; `summarize` turns it into metrics."""

    seconds: float = 0.0
    turn_seconds: float = 0.0  # with a turn on the device
    env_wait_seconds: float = 0.0  # waiting for environments with nothing on the device
    decoded_tokens: int = 0
    decode_bytes: float = 0.0  # weights and cache columns that decoding had to read
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
            "perf/decode_bytes_per_second": self.decode_bytes
            / max(self.turn_seconds, 1e-9),
            "perf/env_wait_fraction": self.env_wait_seconds / seconds,
            "perf/slot_occupancy": self.live_slot_turns / max(self.slot_turns, 1),
        }


@dataclasses.dataclass
class _Episode:
    """An episode under way."""

    index: int  # position among the tasks of this rollout
    task: types.Task
    stream: int  # names its randomness, together with the turn
    slot: int = -1  # its seat in the environment pool
    tokens: list[int] = dataclasses.field(default_factory=list)  # new, not yet appended
    shared: tuple[int, ...] = ()  # tokens of its opening that other episodes share
    observation: str = ""
    carry: list[int] = dataclasses.field(default_factory=list)  # last sampled token
    used: int = 0  # tokens of all finished turns
    turns: list[types.Turn] = dataclasses.field(default_factory=list)
    action: engine.Action | None = None
    action_text: str = ""
    score: float = 0.0

    def budget(self, max_tokens: int, max_action_tokens: int) -> int:
        """Tokens the next action may have; none or fewer if the episode is full."""
        return min(max_action_tokens, max_tokens - self.used - len(self.tokens))


@dataclasses.dataclass
class _Seats:
    """A cohort of the policy with the episode of each row, and the turn under way."""

    cohort: engine.Cohort
    slots: collections.deque[int]  # free seats in the environment pool
    episodes: dict[int, _Episode] = dataclasses.field(default_factory=dict)  # by row
    # Being reset while the others play, so that nobody waits for a reset.
    next_up: collections.deque[_Episode] = dataclasses.field(
        default_factory=collections.deque
    )
    pending: engine.PendingActions | None = None
    started: float = 0.0  # when the turn under way was


class Collector:
    """Plays lists of tasks with one policy in one pool of environments."""

    def __init__(self, policy: engine.Policy, pool: pools.EnvPool, chat: renderer.Chat):
        self._policy = policy
        self._pool = pool
        self._chat = chat

    def collect(
        self,
        params: types.PyTree,
        tasks: Sequence[types.Task],
        *,
        key: jax.Array,
        policy_step: int,
        max_turns: int | None = None,
        streams: Sequence[int] | None = None,
    ) -> tuple[list[types.Trajectory], Statistics]:
        """Plays every task once; on many hosts, each plays a share and all get all.

        Args:
          params: parameters in the rollout's layout.
          tasks: episodes to play, in the order in which they get slots.
          key: names the randomness, together with each episode's stream and turn.
          policy_step: updates behind `params`, recorded in the trajectories.
          max_turns: the stage's horizon; the environments have limits of their own.
          streams: number of each task's stream of randomness, from 0 to 2**31 - 1; None
            takes its position in `tasks`.

        Returns:
          Trajectories in the order of `tasks`, and what this host's share cost.
        """
        started = time.perf_counter()
        size = self._policy.rows_per_cohort + _num_next_up(self._policy)
        cohorts = [
            _Seats(
                self._policy.new_cohort(),
                collections.deque(range(index * size, (index + 1) * size)),
            )
            for index in range(self._policy.rollout.num_cohorts)
        ]
        self._policy.forget_prefixes()  # they came from older parameters
        play = _Play(self._policy, self._pool, self._chat, params, key, max_turns)
        play.policy_step = policy_step
        share = processes.own_share(len(tasks))
        numbers = range(len(tasks)) if streams is None else streams
        play.waiting.extend(_Episode(i, tasks[i], numbers[i]) for i in share)
        busy: _Seats | None = None  # the cohort whose turn is on the device
        while play.waiting or any(s.episodes or s.next_up for s in cohorts):
            for seats in cohorts:
                # The next turn is started before the last one is fetched, so that the
                # device never waits for the host, unless environments are behind.
                if busy is not None and (busy is seats or not play.arrived(seats)):
                    play.send(busy)
                    busy = None
                play.receive(seats, device_idle=busy is None)
                play.act(seats)
                if busy is not None:
                    play.send(busy)
                busy = seats if seats.pending is not None else None
        play.statistics.seconds = time.perf_counter() - started
        return processes.gather([play.finished[i] for i in share]), play.statistics


def _num_next_up(policy: engine.Policy) -> int:
    """Episodes of a cohort that are reset ahead of their turn."""
    return max(1, policy.rows_per_cohort // 4)


class _Play:
    """One call of `Collector.collect`."""

    def __init__(
        self,
        policy: engine.Policy,
        pool: pools.EnvPool,
        chat: renderer.Chat,
        params: types.PyTree,
        key: jax.Array,
        max_turns: int | None,
    ):
        self.waiting: collections.deque[_Episode] = collections.deque()
        self.finished: dict[int, types.Trajectory] = {}
        self.statistics = Statistics()
        self.policy_step = 0
        self._last_fetch = 0.0
        self._bytes_read = policy.bytes_read(params)
        self._policy, self._pool, self._chat = policy, pool, chat
        self._params, self._key, self._max_turns = params, key, max_turns

    def arrived(self, seats: _Seats) -> bool:
        """Whether a cohort could act at once."""
        return self._pool.arrived([e.slot for e in seats.episodes.values()])

    def receive(self, seats: _Seats, *, device_idle: bool) -> None:
        """Takes in the replies of a cohort and fills its free slots."""
        self._receive(seats, list(seats.episodes), device_idle)
        all_rows = range(self._policy.rows_per_cohort)
        while free := [row for row in all_rows if row not in seats.episodes]:
            self._reset(seats, len(free))
            if not seats.next_up:
                break
            started = {
                row: seats.next_up.popleft() for row in free[: len(seats.next_up)]
            }
            seats.episodes |= started
            seats.cohort.lengths[list(started)] = 0
            self._receive(seats, list(started), device_idle)  # one may fail at once
        self._reset(seats, _num_next_up(self._policy))

    def _reset(self, seats: _Seats, count: int) -> None:
        """Sends resets until `count` episodes are next up, or none is waiting."""
        sent = {}
        while self.waiting and len(seats.next_up) < count:
            episode = self.waiting.popleft()
            episode.slot = seats.slots.popleft()
            seats.next_up.append(episode)
            sent[episode.slot] = episode.task.item_id
        self._pool.send_reset(sent)

    def act(self, seats: _Seats) -> None:
        """Starts the next action of every live row."""
        if not seats.episodes:
            return
        limits = self._policy.rollout
        if not self.waiting and not seats.next_up:
            self._policy.narrow(seats.cohort, seats.episodes)
        inputs = {}
        for row, episode in seats.episodes.items():
            budget = episode.budget(limits.max_tokens, limits.max_action_tokens)
            stream = (episode.stream, len(episode.turns))
            chunk = episode.carry + episode.tokens
            shared = () if episode.turns else episode.shared
            inputs[row] = engine.RowInput(chunk, stream, budget, shared)
            self.statistics.appended_tokens += len(chunk)
        seats.started = time.perf_counter()
        seats.pending = self._policy.act(self._params, seats.cohort, inputs, self._key)
        self.statistics.slot_turns += len(seats.cohort.rows)
        self.statistics.live_slot_turns += len(inputs)

    def send(self, seats: _Seats) -> None:
        """Waits for the actions of a cohort and sends them to the environments."""
        if seats.pending is None:
            return
        actions = self._policy.fetch(seats.cohort, seats.pending)
        seats.pending = None
        self._account(seats, {row: len(a.tokens) for row, a in actions.items()})
        texts = {}
        for row, action in actions.items():
            episode = seats.episodes[row]
            episode.action = action
            episode.action_text = self._chat.tokenizer.decode(action.tokens.tolist())
            if action.tokens[-1] in self._chat.tokenizer.stop_ids:
                texts[episode.slot] = episode.action_text
            else:  # cut off: half an action is never sent
                self._end_turn(episode, reward=0.0, valid=False)
                self._finish(seats, row, types.Ending.MAX_TOKENS)
        self._pool.send_step(texts)

    def _account(self, seats: _Seats, counts: Mapping[int, int]) -> None:
        """Adds the turn that has just ended to the statistics."""
        now = time.perf_counter()
        self.statistics.turn_seconds += now - max(seats.started, self._last_fetch)
        self._last_fetch = now
        self.statistics.decoded_tokens += sum(counts.values())
        columns = sum(
            count * (int(seats.cohort.lengths[row]) - count / 2)
            for row, count in counts.items()
        )
        per_step, per_column = self._bytes_read
        self.statistics.decode_bytes += (
            max(counts.values()) * per_step + columns * per_column
        )

    def _receive(self, seats: _Seats, rows: Sequence[int], device_idle: bool) -> None:
        started = time.perf_counter()
        replies = self._pool.receive([seats.episodes[row].slot for row in rows])
        if device_idle:
            self.statistics.env_wait_seconds += time.perf_counter() - started
        for row in rows:
            self._take(seats, row, replies[seats.episodes[row].slot])

    def _take(self, seats: _Seats, row: int, reply: pools.Reply) -> None:
        """Applies one reply: the episode goes on, or ends."""
        episode = seats.episodes[row]
        if reply.result is None:
            if episode.action is not None:
                self._end_turn(episode, reward=0.0, valid=False)
            ending = (
                types.Ending.ENV_TIMEOUT if reply.timed_out else types.Ending.ENV_ERROR
            )
            self._finish(
                seats, row, ending, error=reply.error or "", fault=str(reply.fault)
            )
            return
        result = reply.result
        if episode.action is None:
            instruction, item_id = reply.instruction or "", episode.task.item_id
            observed = self._chat.open(instruction, result.observation, item_id)
            blank = self._chat.open(instruction, "", item_id)
            # All episodes of the environment begin with the same; those of the group
            # share all but the last token, after which each samples for itself.
            same = (a == b for a, b in zip(blank, observed[:-1], strict=False))
            preamble = sum(itertools.takewhile(bool, same))
            episode.shared = tuple(n for n in (preamble, len(observed) - 1) if n)
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
        fault: str = "",
    ) -> None:
        episode = seats.episodes.pop(row)
        seats.slots.append(episode.slot)
        self.finished[episode.index] = types.Trajectory(
            task=episode.task,
            turns=tuple(episode.turns),
            ending=ending,
            policy_step=self.policy_step,
            success=success,
            score=episode.score,
            final_observation=episode.observation,
            error=error,
            fault=fault,
        )
