"""Collecting trajectories: slots, cohorts and turns.

Every episode being played holds a slot of a cohort, with a row of its key-value cache, and
an environment slot in the pool. A turn of a cohort is

  1. receive   the environments' replies to its last actions             (host)
  2. refill    slots of finished episodes with waiting ones              (host)
  3. dispatch  prefill of observations and decoding of actions           (device)
  4. send      the actions to the environments                           (host)

With two cohorts, one decodes while the environments of the other step. Cohorts act in a
fixed order, each after all its replies, so what an episode sees never depends on timing:
a run repeats bit for bit. When no episode is waiting, cohorts are compacted to their live
slots.
"""

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import jax

from agentrl import types
from agentrl.chat import renderer
from agentrl.engine import engine, turns
from agentrl.envs import base, pool
from agentrl.parallel import processes
from agentrl.rollout import live, partial


@dataclasses.dataclass
class Statistics:
    """Costs of a rollout; `summarize` turns them into metrics."""

    seconds: float = 0.0
    device_seconds: float = 0.0  # with a turn on the device
    env_wait_seconds: float = 0.0  # waiting for environments while the device is idle
    decoded_tokens: int = 0
    decode_bytes: float = 0.0  # weights and cached tokens that decoding had to read
    prefill_tokens: int = 0
    slot_turns: int = 0  # cache rows x turns
    live_slot_turns: int = 0  # of these, rows with an episode

    def __add__(self, other: "Statistics") -> "Statistics":
        """Returns the field-wise sum."""
        mine, others = vars(self), vars(other)
        return Statistics(**{name: mine[name] + others[name] for name in mine})

    def summarize(self) -> types.Metrics:
        """Returns the metrics `perf/*` of one rollout."""
        seconds = max(self.seconds, 1e-9)
        return {
            "perf/decode_tokens_per_second": self.decoded_tokens / seconds,
            "perf/prefill_tokens_per_second": self.prefill_tokens / seconds,
            "perf/decode_bytes_per_second": self.decode_bytes
            / max(self.device_seconds, 1e-9),
            "perf/env_wait_fraction": self.env_wait_seconds / seconds,
            "perf/slot_occupancy": self.live_slot_turns / max(self.slot_turns, 1),
        }


@dataclasses.dataclass
class _CohortState:
    """A cohort of the engine, the episodes in its slots, and its in-flight decode."""

    cohort: engine.Cohort
    free_env_slots: collections.deque[int] = dataclasses.field(
        default_factory=collections.deque
    )
    episodes: dict[int, live.Episode] = dataclasses.field(
        default_factory=dict
    )  # by slot
    # Reset ahead of time, while the others are played, so that no slot waits for a reset.
    prefetched: collections.deque[live.Episode] = dataclasses.field(
        default_factory=collections.deque
    )
    in_flight: turns.InFlightDecode | None = None
    dispatched: float = 0.0  # `time.perf_counter()` of the decode call


class Collector:
    """Plays lists of tasks with one engine in one pool of environments."""

    def __init__(
        self,
        policy_engine: engine.Engine,
        env_pool: pool.EnvPool,
        chat: renderer.Chat,
    ):
        self._engine = policy_engine
        self._pool = env_pool
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
        """Plays every task once; each process plays a slice, and all get the result.

        Args:
          params: parameters in the rollout's layout.
          tasks: episodes to play, in the order in which they get slots.
          key: names the randomness, together with each episode's stream and turn.
          policy_step: optimizer updates behind `params`, recorded in the trajectories.
          max_turns: the stage's horizon; the environments have limits of their own.
          streams: number of each task's random stream, from 0 to 2**31 - 1; None takes
            its position in `tasks`.

        Returns:
          Trajectories in the order of `tasks`, and the statistics of this process.
        """
        local = processes.local_slice(len(tasks))
        numbers = range(len(tasks)) if streams is None else streams
        waiting = [
            live.Episode(i, tasks[i], numbers[i], chat=self._chat) for i in local
        ]
        rollout = self._start(params, waiting, key, policy_step, max_turns)
        self._play(rollout)
        finished = [rollout.finished[i] for i in local]
        return processes.gather(finished), rollout.statistics

    def collect_groups(
        self,
        params: types.PyTree,
        tasks: Sequence[types.Task],
        carried: partial.PartialRollout,
        target: partial.Target,
        *,
        key: jax.Array,
        policy_step: int,
        max_turns: int | None = None,
    ) -> tuple[list[types.Trajectory], partial.PartialRollout, Statistics]:
        """Plays until as many groups are complete as are wanted; the others go on later.

        Args:
          params: parameters in the rollout's layout.
          tasks: further episodes to play, whole groups for each process.
          carried: groups of an earlier call, which this one takes over.
          target: the groups that are wanted of each process.
          key: names the randomness, together with each episode's number and turn.
          policy_step: optimizer updates behind `params`. A trajectory has that of its
            first turn; its log-probabilities are of the policies that sampled them.
          max_turns: the stage's horizon.

        Returns:
          Trajectories of whole groups, those of a group in a row, of all processes; what
          goes on later, of this process; and its statistics.
        """
        size = target.group_size
        new = [
            live.Episode(0, task, task.group * size + task.sample, chat=self._chat)
            for task in (tasks[i] for i in processes.local_slice(len(tasks)))
        ]
        waiting = [*carried.episodes, *new]
        for index, episode in enumerate(waiting):
            episode.index = index
        rollout = self._start(params, waiting, key, policy_step, max_turns)

        def choose() -> list[list[types.Trajectory]] | None:
            finished = (*carried.finished, *rollout.finished.values())
            return target.choose(finished, rollout.unfinished)

        self._play(rollout, enough=lambda: choose() is not None)
        chosen = choose()
        assert chosen is not None, "a process plays whole groups"
        ids = {id(episode) for group in chosen for episode in group}
        everything = (*carried.finished, *rollout.finished.values())
        others = [episode for episode in everything if id(episode) not in ids]
        left = partial.PartialRollout(
            rollout.unfinished,
            sorted(others, key=lambda e: (e.task.group, e.task.sample)),
            carried.num_drawn + len(tasks) // size,
        )
        episodes = processes.gather([e for group in chosen for e in group])
        return partial.number_groups(episodes, size), left, rollout.statistics

    def abandon(self, carried: partial.PartialRollout) -> None:
        """Gives up what has not been finished; its environments may be used again."""
        waiting = [e.env_slot for e in carried.episodes if e.awaits_reply]
        self._pool.receive(waiting)

    def _start(
        self,
        params: types.PyTree,
        waiting: Sequence[live.Episode],
        key: jax.Array,
        policy_step: int,
        max_turns: int | None,
    ) -> "_RolloutState":
        rollout = _RolloutState(
            self._engine, self._pool, self._chat, params, key, max_turns
        )
        rollout.policy_step = policy_step
        rollout.admit(waiting)
        return rollout

    def _play(
        self, rollout: "_RolloutState", enough: Callable[[], bool] = lambda: False
    ) -> None:
        """Plays episodes until all are finished, or there are enough.

        Whether there are is asked where it does not depend on timing: before cohorts have
        their turns, and with one cohort before it is refilled. The environments of episodes
        that are left wait for us then; resets may be outstanding.
        """
        started = time.perf_counter()
        self._engine.invalidate_prefix_cache()  # the weights may have changed
        cohorts = rollout.cohorts
        busy: _CohortState | None = None  # the cohort whose turn is on the device
        while rollout.has_work and not enough():
            for state in cohorts:
                # The next turn is dispatched before the last one is fetched, so that the
                # device never waits for the host, unless environments are behind.
                if busy is not None and (busy is state or not rollout.ready(state)):
                    rollout.send(busy)
                    busy = None
                rollout.receive(state, device_idle=busy is None)
                if len(cohorts) == 1 and enough():
                    break
                rollout.refill(state, device_idle=busy is None)
                rollout.dispatch(state)
                if busy is not None:
                    rollout.send(busy)
                busy = state if state.in_flight is not None else None
        if busy is not None:
            rollout.send(busy)
        rollout.settle()
        self._engine.invalidate_prefix_cache()  # an update needs the room
        rollout.statistics.seconds = time.perf_counter() - started


def _num_prefetched(policy_engine: engine.Engine) -> int:
    """Returns how many episodes of a cohort are reset ahead of time."""
    return max(1, policy_engine.slots_per_cohort // 4)


class _RolloutState:
    """State of one call of `Collector.collect` or `collect_groups`."""

    def __init__(
        self,
        policy_engine: engine.Engine,
        env_pool: pool.EnvPool,
        chat: renderer.Chat,
        params: types.PyTree,
        key: jax.Array,
        max_turns: int | None,
    ):
        self.waiting: collections.deque[live.Episode] = collections.deque()
        self.finished: dict[int, types.Trajectory] = {}
        self.statistics = Statistics()
        self.policy_step = 0
        self._last_fetch = 0.0
        self._decode_bytes = policy_engine.decode_bytes(params)
        self._engine, self._pool, self._chat = policy_engine, env_pool, chat
        self._params, self._key, self._max_turns = params, key, max_turns
        self.cohorts = [
            _CohortState(policy_engine.new_cohort())
            for _ in range(policy_engine.rollout.num_cohorts)
        ]

    @property
    def has_work(self) -> bool:
        """Whether there are episodes to play."""
        return bool(self.waiting) or any(
            c.episodes or c.prefetched for c in self.cohorts
        )

    @property
    def unfinished(self) -> list[live.Episode]:
        """Episodes that are not finished, in the order in which they got slots."""
        in_slots = [
            c.episodes[slot] for c in self.cohorts for slot in sorted(c.episodes)
        ]
        prefetched = [episode for c in self.cohorts for episode in c.prefetched]
        return [*in_slots, *prefetched, *self.waiting]

    def admit(self, waiting: Sequence[live.Episode]) -> None:
        """Takes the episodes to play; some may have an environment already."""
        self.waiting.extend(waiting)
        size = self._engine.slots_per_cohort + _num_prefetched(self._engine)
        total = size * len(self.cohorts)
        taken = {episode.env_slot for episode in waiting}
        # A cohort has room for `size` episodes of its own, whoever plays the others.
        further = (slot for slot in itertools.count(total) if slot not in taken)
        for index, state in enumerate(self.cohorts):
            own = range(index * size, (index + 1) * size)
            free = [slot for slot in own if slot not in taken]
            free += itertools.islice(further, size - len(free))
            state.free_env_slots.extend(free)

    def settle(self) -> None:
        """Takes the replies to the last actions. What is left has no cache from now on."""
        for state in self.cohorts:
            self.receive(state, device_idle=True)
            for episode in state.episodes.values():
                episode.needs_prefill = True

    def ready(self, state: _CohortState) -> bool:
        """Returns whether all environments of a cohort have replied."""
        acted = [e for e in state.episodes.values() if e.awaits_reply]
        return self._pool.arrived([episode.env_slot for episode in acted])

    def receive(self, state: _CohortState, *, device_idle: bool) -> None:
        """Applies the replies to a cohort's actions."""
        acted = [slot for slot, e in state.episodes.items() if e.awaits_reply]
        self._receive(state, acted, device_idle)

    def refill(self, state: _CohortState, *, device_idle: bool) -> None:
        """Begins waiting episodes in a cohort's free slots."""
        all_slots = range(self._engine.slots_per_cohort)
        while free := [slot for slot in all_slots if slot not in state.episodes]:
            self._reset(state, len(free))
            if not state.prefetched:
                break
            started = {
                slot: state.prefetched.popleft()
                for slot in free[: len(state.prefetched)]
            }
            state.episodes |= started
            state.cohort.lengths[list(started)] = 0
            opening = [slot for slot, e in started.items() if e.awaits_reply]
            self._receive(state, opening, device_idle)  # one may fail at once
        self._reset(state, _num_prefetched(self._engine))

    def _reset(self, state: _CohortState, count: int) -> None:
        """Sends resets until `count` episodes are prefetched, or none is waiting."""
        sent = {}
        while self.waiting and len(state.prefetched) < count:
            episode = self.waiting.popleft()
            state.prefetched.append(episode)
            if episode.env_slot < 0:
                episode.env_slot = state.free_env_slots.popleft()
                episode.awaits_reply = True
                sent[episode.env_slot] = episode.task.item_id
        self._pool.send_reset(sent)

    def dispatch(self, state: _CohortState) -> None:
        """Starts the next action of every live slot."""
        if not state.episodes:
            return
        limits = self._engine.rollout
        if not self.waiting and not state.prefetched:
            self._engine.compact(state.cohort, state.episodes)
        inputs = {}
        for slot, episode in state.episodes.items():
            state.cohort.lengths[slot] -= episode.num_cached_cut
            inputs[slot] = episode.next_input(limits)
            episode.needs_prefill = False
            if not episode.has_begun:
                episode.policy_step = self.policy_step
        state.dispatched = time.perf_counter()
        prefilled = self._engine.num_prefilled
        state.in_flight = self._engine.dispatch(
            self._params, state.cohort, inputs, self._key
        )
        self.statistics.prefill_tokens += self._engine.num_prefilled - prefilled
        self.statistics.slot_turns += len(state.cohort.slots)
        self.statistics.live_slot_turns += len(inputs)

    def send(self, state: _CohortState) -> None:
        """Waits for the actions of a cohort and sends them to the environments."""
        if state.in_flight is None:
            return
        outputs = self._engine.fetch(state.cohort, state.in_flight)
        state.in_flight = None
        self._account(state, {slot: len(o.tokens) for slot, o in outputs.items()})
        texts = {}
        for slot, output in outputs.items():
            episode = state.episodes[slot]
            if not episode.take(output, self._engine.rollout):
                continue  # its action goes on with the cohort's next turn
            assert episode.action is not None
            stopped = output.tokens[-1] in self._chat.tokenizer.stop_ids
            if stopped or self._plays_cut(episode.action):
                texts[episode.env_slot] = episode.action_text
                episode.awaits_reply = True
            else:  # an incomplete action is not sent
                episode.record_turn(reward=0.0, valid=False)
                self._finish(state, slot, types.Ending.MAX_TOKENS)
        self._pool.send_step(texts)

    def _plays_cut(self, output: engine.SlotOutput) -> bool:
        """Whether an action without a stop token is played nevertheless.

        One that the limit of the whole episode cuts leaves no room to go on.
        """
        limits = self._engine.rollout
        cut = len(output.tokens) == limits.max_action_tokens
        return cut and limits.cut_actions == "play"

    def _account(self, state: _CohortState, counts: Mapping[int, int]) -> None:
        """Adds a fetched turn with `counts` action tokens by slot to the statistics."""
        now = time.perf_counter()
        self.statistics.device_seconds += now - max(state.dispatched, self._last_fetch)
        self._last_fetch = now
        self.statistics.decoded_tokens += sum(counts.values())
        # Each step of a slot reads all its cached tokens: half of the action on average.
        reads = sum(
            count * (int(state.cohort.lengths[slot]) - count / 2)
            for slot, count in counts.items()
        )
        weight_bytes, bytes_per_token = self._decode_bytes
        self.statistics.decode_bytes += (
            max(counts.values()) * weight_bytes + reads * bytes_per_token
        )

    def _receive(
        self, state: _CohortState, slots: Sequence[int], device_idle: bool
    ) -> None:
        """Waits for the replies to the episodes in `slots` and applies them."""
        started = time.perf_counter()
        replies = self._pool.receive([state.episodes[slot].env_slot for slot in slots])
        if device_idle:
            self.statistics.env_wait_seconds += time.perf_counter() - started
        for slot in slots:
            self._apply_reply(state, slot, replies[state.episodes[slot].env_slot])

    def _apply_reply(self, state: _CohortState, slot: int, reply: pool.Reply) -> None:
        """Applies one reply: the episode continues, or ends."""
        episode = state.episodes[slot]
        episode.awaits_reply = False
        if reply.result is None:
            if episode.action is not None:
                episode.record_turn(reward=0.0, valid=False)
            ending = (
                types.Ending.ENV_TIMEOUT if reply.timed_out else types.Ending.ENV_ERROR
            )
            self._finish(
                state, slot, ending, error=reply.error or "", fault=str(reply.fault)
            )
            return
        result = reply.result
        if episode.action is None:
            episode.open(reply.instruction or "", result.observation)
        else:
            info = result.info
            episode.record_turn(reward=result.reward, valid=info.valid_action)
            episode.score = info.score
            if ending := self._ending(episode, result):
                episode.observation = result.observation
                self._finish(state, slot, ending, success=info.success)
                return
            episode.extend(result.observation)
        if episode.budget(self._engine.rollout) < 1:
            self._finish(state, slot, types.Ending.MAX_TOKENS)

    def _ending(
        self, episode: live.Episode, result: base.StepResult
    ) -> types.Ending | None:
        """Returns why a step ended its episode; None if it continues."""
        if result.terminated:
            solved = result.info.success
            return types.Ending.SOLVED if solved else types.Ending.FAILED
        at_horizon = self._max_turns and len(episode.turns) >= self._max_turns
        if result.truncated or at_horizon:
            return types.Ending.MAX_TURNS
        return None

    def _finish(
        self,
        state: _CohortState,
        slot: int,
        ending: types.Ending,
        *,
        success: bool = False,
        error: str = "",
        fault: str = "",
    ) -> None:
        """Stores the trajectory of the episode in `slot` and frees its slots."""
        episode = state.episodes.pop(slot)
        state.free_env_slots.append(episode.env_slot)
        self.finished[episode.index] = types.Trajectory(
            task=episode.task,
            turns=tuple(episode.turns),
            ending=ending,
            policy_step=episode.policy_step if episode.has_begun else self.policy_step,
            success=success,
            score=episode.score,
            final_observation=episode.observation,
            error=error,
            fault=fault,
        )
