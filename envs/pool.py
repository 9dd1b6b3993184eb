"""Environments in worker processes, with a deadline per call and no lost reply.

A caller owns *slots*, which it numbers itself: each plays one episode at a time, in
worker `slot % num_workers`. It sends resets and steps for many slots at once, does
something else, and receives the replies as they come:

    with pool.EnvPool(configs, num_workers=2) as envs:
        envs.send_reset({0: "textcraft_12", 1: "babyai_3"})
        replies = envs.receive([0, 1])
        envs.send_step({0: "Action: inventory"})

Whatever happens, each call gets exactly one `Reply`. An exception in an environment
ends the episode with the text of the error. A call past its deadline ends it with
`timed_out`, and the worker is killed and replaced, as is one that dies; the other
episodes that lived in that worker end with an error that says so, at once or with their
next step.

Workers are plain subprocesses, not `multiprocessing` ones: those import the parent's
main module again, or fork a process that holds JAX's threads and devices.
"""

import collections
import contextlib
import dataclasses
import math
import os
import pickle
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from multiprocessing import connection

from agentrl.envs import base, worker

_WORKER_CODE = "from agentrl.envs import worker; worker.main()"
_START_TIMEOUT_S = 60.0  # a worker imports its environments and may build their data
_MAX_FAILED_STARTS = 3  # in a row; more is not bad luck


class PoolError(RuntimeError):
    """The pool was used out of order, or its workers cannot start."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of one call; exactly one of `result` and `error` is set.

    A reply with an `error` ends the episode, and so does a `result` that is done.
    """

    slot: int
    instruction: str | None = None  # the rules of the environment, after a reset
    result: base.StepResult | None = None  # after a reset only its observation counts
    error: str | None = None  # what went wrong, and the command that replays the task
    timed_out: bool = False  # the call itself passed its deadline


@dataclasses.dataclass
class Counters:
    """What happened since the pool was made, for metrics."""

    resets: int = 0  # resets sent
    steps: int = 0  # steps sent
    errors: int = 0  # replies with an error, of any kind
    timeouts: int = 0  # of these, calls that passed their deadline
    lost: int = 0  # of these, episodes that went down with their worker
    respawns: int = 0  # workers that were replaced


@dataclasses.dataclass
class _Episode:
    env: str
    item_id: str
    turn: int = 0  # steps sent
    text: str = ""  # the last answer sent
    lost: str = ""  # how its worker ended, if it did


class _Worker:
    """One process, the socket to it, and the calls it has not answered, in order."""

    def __init__(
        self, index: int, configs: Mapping[str, base.EnvConfig], timeout_s: float
    ):
        self.index = index
        self.pending: collections.deque[int] = collections.deque()  # slots
        self.ready = False
        self.overdue = False  # killed because a call passed its deadline
        self.since = time.monotonic()  # when it, or its first pending call, was started
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER_CODE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,  # so that its own children can be killed with it
            )
        # A worker that stops within a message must not stop us.
        limit = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.link = connection.Connection(ours.detach())
        self.send(configs)

    def send(self, message: object) -> None:
        """Sends; a worker that takes nothing is killed, and found dead by a read."""
        try:
            self.link.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        except OSError:
            self.kill()

    def deadline(self, call_timeout_s: float) -> float:
        """When to give up on it, in monotonic seconds; infinity if nothing is due."""
        if self.overdue or (self.ready and not self.pending):
            return math.inf
        return self.since + (call_timeout_s if self.ready else _START_TIMEOUT_S)

    def kill(self) -> None:
        """Kills the worker and every process its environments started."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> str:
        """Makes sure that the worker has ended, and says how."""
        self.link.close()
        self.kill()
        code = self.process.wait()
        how = (
            f"killed by {signal.Signals(-code).name}"
            if code < 0
            else f"exit code {code}"
        )
        return f"worker {self.index} (process {self.process.pid}) ended, {how}"


class EnvPool:
    """See the module docstring. Use it from one thread; close it, or use `with`."""

    def __init__(
        self,
        configs: Mapping[str, base.EnvConfig],
        *,
        num_workers: int,
        call_timeout_s: float = 60.0,
    ):
        """Starts the workers and waits until all are ready.

        Args:
          configs: the configuration of each environment that will be played.
          num_workers: processes; about one per core that the policy leaves idle.
          call_timeout_s: seconds that a single reset or step may take.

        Raises:
          PoolError: if an environment cannot be made; the message ends with its error.
        """
        if num_workers < 1 or call_timeout_s <= 0:
            raise ValueError(
                f"num_workers = {num_workers}, call_timeout_s = {call_timeout_s}: "
                "both must be positive."
            )
        self.counters = Counters()
        self._configs = dict(configs)
        self._timeout_s = call_timeout_s
        self._selector = selectors.DefaultSelector()
        self._episodes: dict[int, _Episode] = {}  # live ones, by slot
        self._in_flight: set[int] = set()  # slots with a call not yet received
        self._replies: dict[int, Reply] = {}  # of these, the ones that have arrived
        self._failed_starts = 0  # in a row
        self._workers: list[_Worker] = []
        try:
            for index in range(num_workers):
                self._workers.append(self._start_worker(index))
            while not all(w.ready for w in self._workers):
                self._pump()
        except BaseException:
            self.close()
            raise

    def send_reset(self, tasks: Mapping[int, str]) -> None:
        """Starts a task in each slot, whatever the slot played before.

        Args:
          tasks: item id, such as `textcraft_12`, by slot.
        """
        names = {slot: item_id.rpartition("_")[0] for slot, item_id in tasks.items()}
        for slot, env in names.items():
            self._check_free(slot)
            if env not in self._configs:
                raise base.UnknownItemError(
                    f"item id {tasks[slot]!r}: the pool plays {sorted(self._configs)}; "
                    "pass the environment's configuration to EnvPool."
                )
        for slot, env in names.items():
            self._episodes[slot] = _Episode(env, tasks[slot])
        self.counters.resets += len(names)
        self._send([worker.Call(s, env, tasks[s]) for s, env in names.items()])

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
        calls = []
        for slot, text in actions.items():
            episode = self._episodes[slot]
            episode.turn += 1
            episode.text = text[: base.MAX_ACTION_CHARS]
            calls.append(worker.Call(slot, episode.env, None, episode.text))
        self.counters.steps += len(calls)
        self._send(calls)

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
        started = _Worker(index, self._configs, self._timeout_s)
        self._selector.register(started.link, selectors.EVENT_READ, started)
        return started

    def _send(self, calls: Sequence[worker.Call]) -> None:
        """Sends each worker its calls; episodes that are lost get their reply now."""
        batches = collections.defaultdict(list)
        for call in calls:
            self._in_flight.add(call.slot)
            if lost := self._episodes[call.slot].lost:
                self._lose(call.slot, lost)
            else:
                batches[call.slot % len(self._workers)].append(call)
        for index, batch in batches.items():
            target = self._workers[index]
            if target.ready and not target.pending:
                target.since = time.monotonic()
            target.pending.extend(call.slot for call in batch)
            target.send(batch)

    def _pump(self, wait_s: float = math.inf) -> bool:
        """Takes in one message of each worker that has sent any; gives up on others.

        Waits for a message, but no longer than `wait_s` seconds or the next deadline.

        Returns:
          Whether there was any message.
        """
        deadline = min(w.deadline(self._timeout_s) for w in self._workers)
        wait_s = max(0.0, min(wait_s, deadline - time.monotonic()))
        events = self._selector.select(None if wait_s == math.inf else wait_s)
        heard: list[_Worker] = [key.data for key, _ in events]
        for source in heard:
            self._take(source)
        now = time.monotonic()
        for silent in self._workers:
            if silent not in heard and silent.deadline(self._timeout_s) <= now:
                silent.overdue = True
                silent.kill()  # and found dead by the next read
        return bool(heard)

    def _take(self, source: _Worker) -> None:
        """Takes in one message, which may be the news that the worker is dead."""
        try:
            message = source.link.recv_bytes()
        except (EOFError, OSError):
            self._replace(source)
            return
        source.since = time.monotonic()
        source.overdue = False  # a late answer counts; another call was cut short then
        if source.ready:
            self._deliver(source.pending.popleft(), worker.Answer.decode(message))
        elif error := pickle.loads(message):
            raise PoolError(f"a worker cannot make its environments:\n{error}")
        else:
            source.ready = True
            self._failed_starts = 0

    def _deliver(self, slot: int, answer: worker.Answer) -> None:
        if answer.result is None:
            self._fail(slot, f"the environment raised an error\n{answer.error}")
            return
        if answer.result.done:
            del self._episodes[slot]
        self._replies[slot] = Reply(slot, answer.instruction, answer.result)

    def _fail(self, slot: int, problem: str, *, timed_out: bool = False) -> None:
        """Ends the episode in `slot` with an error."""
        episode = self._episodes.pop(slot)
        error = _describe_failure(
            episode.item_id,
            self._configs[episode.env],
            turn=episode.turn,
            text=episode.text,
            problem=problem,
        )
        self.counters.errors += 1
        self._replies[slot] = Reply(slot, error=error, timed_out=timed_out)

    def _lose(self, slot: int, cause: str) -> None:
        self.counters.lost += 1
        self._fail(slot, f"lost with its worker: {cause}")

    def _replace(self, dead: _Worker) -> None:
        """Starts a worker anew and accounts for all episodes that lived in it."""
        self._selector.unregister(dead.link)
        cause = dead.end()
        self._failed_starts += not dead.ready
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise PoolError(
                f"{self._failed_starts} workers in a row ended before they were ready; "
                f"the last: {cause}. Their output is on stderr."
            )
        self._workers[dead.index] = self._start_worker(dead.index)
        self.counters.respawns += 1
        for slot, episode in self._episodes.items():
            if slot % len(self._workers) == dead.index:
                episode.lost = episode.lost or cause
        if dead.pending and dead.ready:
            self._blame(dead.pending.popleft(), cause, overdue=dead.overdue)
        for slot in dead.pending:
            self._lose(slot, cause)

    def _blame(self, slot: int, cause: str, *, overdue: bool) -> None:
        """Accounts for the call that ran, or was about to, when its worker ended."""
        if overdue:
            self.counters.timeouts += 1
            problem = f"no answer within {self._timeout_s:g} s, so {cause}"
        else:
            problem = f"its call was running when {cause}"
        self._fail(slot, problem, timed_out=overdue)


def _describe_failure(
    item_id: str, config: base.EnvConfig, *, turn: int, text: str, problem: str
) -> str:
    """Writes what went wrong, where, and how to see it again."""
    env = item_id.rpartition("_")[0]
    place = f"turn {turn}, on the answer {text[:200]!r}" if turn else "its reset"
    return (
        f"environment '{env}', task {item_id}, {place}: {problem}\n"
        f"  replay the task alone: {replay_command(item_id, config)}"
    )


def replay_command(item_id: str, config: base.EnvConfig) -> str:
    """The command that plays the task `item_id` under `config` in a terminal."""
    env = item_id.rpartition("_")[0]
    flags = [f"--env={env}", f"--task={item_id}", f"--profile={config.profile}"]
    flags.append(f"--list_actions={config.list_actions}")
    if config.max_turns is not None:
        flags.append(f"--max_turns={config.max_turns}")
    flags += [f"--option={key}={value}" for key, value in config.options.items()]
    return shlex.join(["python", "-m", "agentrl.launch.play", *flags])
