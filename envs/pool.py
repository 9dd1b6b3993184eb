"""Environments in worker processes, with a deadline per call and no lost reply.

A caller owns *slots*, which it numbers itself: each plays one episode at a time, in
worker `slot % num_workers`. It sends resets and steps for many slots at once, does
something else, and receives the replies as they come:

    with pool.EnvPool(configs, num_workers=2) as envs:
        envs.send_reset({0: "textcraft_12", 1: "babyai_3"})
        replies = envs.receive([0, 1])
        envs.send_step({0: "Action: inventory"})

Whatever happens, each call gets exactly one `Reply`, and one episode never costs another.
An exception in an environment, or a result that `agentrl.envs.border` refuses, ends the
episode with the text of the error. A call past its deadline ends it with `timed_out`, and
the worker is killed and replaced, as is one that dies. The other episodes that lived in
that worker are played again in the new one, from their recorded answers: an episode is a
function of item id, configuration and answers, and what differs from the record ends it.

A worker that died during a call does not prove that the call was to blame: something from
outside may have killed it, or memory that another episode holds. The episode is played
again alone in a new process, and is to blame if it ends that one as well.

Workers are plain subprocesses, not `multiprocessing` ones: those import the parent's main
module again, or fork a process that holds JAX's threads and devices.
"""

import collections
import contextlib
import dataclasses
import math
import pickle
import selectors
import subprocess
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from agentrl.envs import base, border, faults, memory, registry, supervisor, worker

_MAX_FAILED_STARTS = 3  # in a row; more is not bad luck
_MAX_KILLED_ALONE = 2  # times that something may kill a worker with one episode


PoolError = faults.PoolError


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of one call; exactly one of `result` and `error` is set.

    A reply with an `error` ends the episode, and so does a `result` that is done.
    """

    slot: int
    instruction: str | None = None  # the rules of the environment, after a reset
    result: base.StepResult | None = None  # after a reset only its observation counts
    error: str | None = None  # what went wrong, and the command that replays the task
    fault: faults.Fault | None = None  # the kind of error
    advice: str | None = None  # the oracle's next answer, if one was asked for

    @property
    def timed_out(self) -> bool:
        """Whether the call passed its deadline."""
        return self.fault is faults.Fault.TIMED_OUT


@dataclasses.dataclass
class Counters:
    """What happened since the pool was made, for metrics."""

    resets: int = 0  # resets sent
    steps: int = 0  # steps sent
    errors: int = 0  # replies with an error, of any kind
    timeouts: int = 0  # of these, calls that passed their deadline
    replays: int = 0  # episodes that were played again because their worker ended
    respawns: int = 0  # workers that were replaced


_Worker: TypeAlias = "supervisor.WorkerProcess[_Episode]"


@dataclasses.dataclass(eq=False)
class _Episode:
    slot: int
    env: str
    item_id: str
    calls: list[worker.Call]  # all that were sent, in order
    answers: list[bytes] = dataclasses.field(default_factory=list)  # of these, encoded
    home: "_Worker | None" = None  # the process that plays it
    num_answered: int = 0  # calls that this process has answered
    killed_alone: int = 0  # times that a process with nothing else in it was killed
    ended: bool = False


class EnvPool:
    """See the module docstring. Use it from one thread; close it, or use `with`."""

    def __init__(
        self,
        configs: Mapping[str, base.EnvConfig],
        *,
        num_workers: int,
        call_timeout_s: float = 60.0,
        max_observation_bytes: int = border.MAX_OBSERVATION_BYTES,
        worker_memory_bytes: int | None = None,
    ):
        """Starts the workers and waits until all are ready.

        Args:
          configs: the configuration of each environment that will be played.
          num_workers: processes; about one per core that the policy leaves idle.
          call_timeout_s: seconds that a single reset or step may take.
          max_observation_bytes: UTF-8 bytes that an observation may have; an episode
            with a longer one ends with an error.
          worker_memory_bytes: resident memory that a worker may use together with the
            programs that its environments start; None sets no limit. An episode that
            passes it alone ends with an error. The limit has to hold the data that
            environments share, and the state of `num_slots / num_workers` episodes.

        Raises:
          PoolError: if an environment cannot be made; the message ends with its error.
        """
        _check_sizes(num_workers, call_timeout_s, worker_memory_bytes)
        self.counters = Counters()
        self.num_workers = num_workers
        self.configs = dict(configs)
        # By environment: the answer to its instruction, see `Environment.acknowledgement`.
        self.acknowledgements: dict[str, str] = {}
        self._settings = worker.Settings(
            self.configs, max_observation_bytes, worker_memory_bytes
        )
        self._timeout_s = call_timeout_s
        self._selector = selectors.DefaultSelector()
        self._episodes: dict[int, _Episode] = {}  # live ones, by slot
        self._in_flight: set[int] = set()  # slots with a call not yet received
        self._replies: dict[int, Reply] = {}  # of these, the ones that have arrived
        self._failed_starts = 0  # in a row
        self._workers: list[_Worker] = []
        self._watch: supervisor.MemoryWatch | None = None
        try:
            for index in range(num_workers):
                self._workers.append(self._start_worker(index))
            if worker_memory_bytes is not None:
                self._watch = supervisor.MemoryWatch(
                    lambda: tuple(self._workers), worker_memory_bytes
                )
                self._watch.start()
            while not all(w.ready for w in self._workers):
                self._pump()
        except BaseException:
            self.close()
            raise

    def send_reset(
        self, tasks: Mapping[int, str], *, oracle: base.Advisor | None = None
    ) -> None:
        """Starts a task in each slot, whatever the slot played before.

        Args:
          tasks: item id, such as `textcraft_12`, by slot.
          oracle: replies of these episodes carry the advice of such an oracle, or of
            the random policy.
        """
        names = {slot: item_id.rpartition("_")[0] for slot, item_id in tasks.items()}
        for slot, env in names.items():
            self._check_free(slot)
            if env not in self.configs:
                raise base.UnknownItemError(self._explain_unknown(tasks[slot], env))
        for slot, env in names.items():
            call = worker.Call(slot, env, tasks[slot], "", oracle)
            self._episodes[slot] = _Episode(slot, env, tasks[slot], [call])
        self.counters.resets += len(names)
        self._send(self._episodes[slot] for slot in names)

    def _explain_unknown(self, item_id: str, env: str) -> str:
        played = f"item id {item_id!r}: the pool plays {sorted(self.configs)}"
        if env in registry.names():
            return f"{played}; pass the environment's configuration to EnvPool."
        return (
            f"{played}, and no environment is named {env!r}; the ids of an environment's "
            "panel are its name, '_' and a number. Correct the panel."
        )

    def send_step(self, actions: Mapping[int, str]) -> None:
        """Sends the agent's answer in each slot to the environment there.

        Args:
          actions: the whole answer by slot. Each slot must hold a live episode.
        """
        for slot in actions:
            self._check_free(slot)
            if slot not in self._episodes:
                raise PoolError(
                    f"slot {slot} holds no live episode (never reset, or ended by its "
                    "last reply); call send_reset first."
                )
        for slot, text in actions.items():
            episode = self._episodes[slot]
            cut = text[: base.MAX_ACTION_CHARS]
            episode.calls.append(worker.Call(slot, episode.env, None, cut))
        self.counters.steps += len(actions)
        self._send(self._episodes[slot] for slot in actions)

    def arrived(self, slots: Collection[int]) -> bool:
        """Whether the replies to all `slots` are there: `receive` would not wait."""
        while self._pump(0.0):
            pass
        return self._replies.keys() >= set(slots)

    def receive(
        self, slots: Collection[int], *, wait_for_all: bool = True
    ) -> dict[int, Reply]:
        """Waits for replies to what was sent, and hands each out once.

        Args:
          slots: slots with a call in flight; replies to others are kept for later.
          wait_for_all: False returns as soon as at least one reply is there.

        Returns:
          Replies by slot, in order of arrival.

        Raises:
          PoolError: if a slot has nothing in flight, or workers keep failing to start.
        """
        if idle := [slot for slot in slots if slot not in self._in_flight]:
            raise PoolError(f"nothing is in flight for slots {idle}; send first.")
        wanted = set(slots)
        needed = len(wanted) if wait_for_all else min(1, len(wanted))
        while self._pump(0.0):  # all that is there, before waiting for more
            pass
        while len(wanted & self._replies.keys()) < needed:
            self._pump()
        arrived = [slot for slot in self._replies if slot in wanted]
        self._in_flight.difference_update(arrived)
        return {slot: self._replies.pop(slot) for slot in arrived}

    def close(self) -> None:
        """Ends the workers; those that do not end by themselves are killed."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        for gone in self._workers:
            gone.link.close()
        for gone in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                gone.process.wait(timeout=worker.GRACE_S)
            gone.end()
        self._workers = []
        self._selector.close()

    def __enter__(self) -> "EnvPool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_free(self, slot: int) -> None:
        if slot in self._in_flight:
            raise PoolError(
                f"slot {slot} has a call in flight; receive its reply first."
            )

    def _start_worker(self, index: int) -> _Worker:
        started: _Worker = supervisor.WorkerProcess(
            index, self._settings, self._timeout_s
        )
        self._selector.register(started.link, selectors.EVENT_READ, started)
        return started

    def _send(self, episodes: Iterable[_Episode]) -> None:
        """Sends the last call of each episode to its worker."""
        batches = collections.defaultdict(list)
        for episode in episodes:
            self._in_flight.add(episode.slot)
            batches[episode.slot % self.num_workers].append(episode)
        for index, batch in batches.items():
            self._dispatch(self._workers[index], batch)

    def _dispatch(self, target: _Worker, episodes: Iterable[_Episode]) -> None:
        """Sends what a worker lacks of each episode: its last call, or all of them."""
        if target.suspect is not None:
            target.held.extend(episodes)
            return
        calls: list[worker.Call] = []
        callers: list[_Episode] = []
        for episode in episodes:
            if episode.home is target:
                calls.append(episode.calls[-1])
                callers.append(episode)
                continue
            self.counters.replays += episode.home is not None
            episode.home, episode.num_answered = target, 0
            target.num_hosted += 1
            calls += episode.calls
            callers += [episode] * len(episode.calls)
        if calls:
            target.send(calls, callers)

    def _pump(self, wait_s: float = math.inf) -> bool:
        """Takes in the messages of workers that have sent any; gives up on others.

        Waits for a message, but no longer than `wait_s` seconds or the next deadline.

        Returns:
          Whether there was any message.
        """
        deadline = min(w.deadline(self._timeout_s) for w in self._workers)
        wait_s = max(0.0, min(wait_s, deadline - supervisor.clock()))
        events = self._selector.select(None if wait_s == math.inf else wait_s)
        heard: list[_Worker] = [key.data for key, _ in events]
        for source in heard:
            self._take(source)
        now = supervisor.clock()
        for silent in self._workers:
            if silent not in heard and silent.deadline(self._timeout_s) <= now:
                silent.overdue = True
                silent.kill()  # and found dead by the next read
        return bool(heard)

    def _take(self, source: _Worker) -> None:
        """Takes in messages, or the news that the worker is dead."""
        try:
            bodies = source.receive()
        except EOFError:
            self._replace(source)
            return
        for body in bodies:
            if source.ready:
                self._record(source.pending.popleft(), body)
            elif isinstance(first := pickle.loads(body), str):
                raise PoolError(f"a worker cannot make its environments:\n{first}")
            else:
                self.acknowledgements = first
                source.ready = True
                self._failed_starts = 0
        if source.suspect is not None and not source.pending:
            source.suspect, held = None, source.held
            source.held = []
            self._dispatch(source, held)

    def _record(self, episode: _Episode, body: bytes) -> None:
        """Takes in the answer to a call: for the caller, or one that it has already."""
        if episode.ended:
            return  # calls that were sent before it ended
        turn, episode.num_answered = episode.num_answered, episode.num_answered + 1
        if turn == len(episode.answers):
            episode.answers.append(body)
            self._deliver(episode, worker.Answer.decode(body))
        elif not worker.are_equal(body, episode.answers[turn]):
            now, before = map(worker.Answer.decode, (body, episode.answers[turn]))
            self._fail(
                episode,
                faults.Fault.IMPURE,
                "the episode was played again, because its worker had ended, and differs"
                f":\n{now}\nand before:\n{before}",
                turn=turn,
            )

    def _deliver(self, episode: _Episode, answer: worker.Answer) -> None:
        """Hands the answer to the last call to the caller."""
        slot, result = episode.slot, answer.result
        if result is None:
            assert answer.fault is not None
            self._fail(episode, answer.fault, answer.error or "")
            return
        if result.done:
            episode.ended = True
            del self._episodes[slot]
        episode.killed_alone = 0
        self._replies[slot] = Reply(
            slot, answer.instruction, result, advice=answer.advice
        )

    def _fail(
        self,
        episode: _Episode,
        fault: faults.Fault,
        problem: str,
        *,
        turn: int | None = None,
    ) -> None:
        """Ends an episode with an error, by default of its last call."""
        turn = len(episode.calls) - 1 if turn is None else turn
        error = faults.describe(
            episode.item_id,
            self.configs[episode.env],
            turn=turn,
            text=episode.calls[turn].text,
            problem=f"the environment {fault}: {border.shorten_error(problem)}",
        )
        episode.ended = True
        del self._episodes[episode.slot]
        self.counters.errors += 1
        self.counters.timeouts += fault is faults.Fault.TIMED_OUT
        self._replies[episode.slot] = Reply(episode.slot, error=error, fault=fault)

    def _replace(self, dead: _Worker) -> None:
        """Starts a worker anew; what it owes is answered, by an error or by replaying."""
        self._selector.unregister(dead.link)
        cause = dead.end()
        self._failed_starts += not dead.ready
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise PoolError(
                f"{self._failed_starts} workers in a row ended before they were ready; "
                f"the last: {cause}. Their output is on stderr."
            )
        fresh = self._workers[dead.index] = self._start_worker(dead.index)
        self.counters.respawns += 1
        suspect = dead.suspect
        if dead.ready and dead.pending and not dead.pending[0].ended:
            running = dead.pending[0]
            suspect = None if self._convict(running, dead, cause) else running
        owed = dict.fromkeys([*dead.pending, *dead.held])
        owed = [episode for episode in owed if not episode.ended]
        if suspect is not None and not suspect.ended:
            self._dispatch(fresh, [suspect])
            fresh.suspect = suspect
            owed.remove(suspect)
        self._dispatch(fresh, owed)

    def _convict(self, running: _Episode, dead: _Worker, cause: str) -> bool:
        """Ends the episode whose call ran when its worker ended, if it is to blame.

        Returns:
          False if it may be innocent, and has to be played alone.
        """
        alone = dead.num_hosted == 1
        if dead.overdue:
            fault = faults.Fault.TIMED_OUT
            cause = f"no answer within {self._timeout_s:g} s, so {cause}"
        elif not alone:
            return False
        elif dead.over_memory:
            fault = faults.Fault.MEMORY
        else:
            running.killed_alone += 1
            if not (dead.surely_by_itself or running.killed_alone >= _MAX_KILLED_ALONE):
                return False
            fault = faults.Fault.DIED
            cause = f"its call was running when {cause}"
        self._fail(running, fault, cause, turn=running.num_answered)
        return True


def _check_sizes(
    num_workers: int, call_timeout_s: float, worker_memory_bytes: int | None
) -> None:
    if num_workers < 1 or call_timeout_s <= 0:
        raise ValueError(
            f"num_workers = {num_workers}, call_timeout_s = {call_timeout_s}: "
            "both must be positive."
        )
    if worker_memory_bytes is None:
        return
    if worker_memory_bytes <= 0:
        raise ValueError(
            f"worker_memory_bytes = {worker_memory_bytes}: it must be positive; None "
            "sets no limit."
        )
    if not memory.is_measurable():
        raise ValueError(
            f"worker_memory_bytes = {worker_memory_bytes}: this system does not tell "
            "the memory of processes under /proc; set no limit."
        )
