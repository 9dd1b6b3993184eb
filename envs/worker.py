"""A worker process of the pool: plays many environments, one call at a time.

`agentrl.envs.pool` starts it and holds the other end of its socket. A worker receives its
settings once, then batches of calls, and answers each call as soon as it is done, in the
order received. So the first call without an answer is the one that is running, which
tells a call that hangs or kills its worker from those that waited behind it.

A second thread reads the socket all the time. Hence the parent's sends never wait for a
busy environment, and the worker notices at once when its parent is gone.

An environment may fork. The copy of the worker that this makes loses the socket at once,
and ends when it comes back from the call: it never answers.
"""

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import NamedTuple

from agentrl.envs import base, border, episodes, faults, memory, registry, wire

GRACE_S = 2.0  # for closing environments once the parent has gone or closed the pool
MEMORY_EXIT_CODE = 113  # a call left the worker over its memory limit
_SELF_EXPLAINING = (
    base.EnvConfigError,
    base.InvalidResultError,
    base.MissingDataError,
    base.UnknownItemError,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a worker is told at its start."""

    configs: Mapping[str, base.EnvConfig]
    max_observation_bytes: int
    memory_limit_bytes: int | None


class Call(NamedTuple):
    """One call to the environment of a slot."""

    slot: int
    env: str
    item_id: str | None  # the task to reset to; None for a step
    text: str = ""  # the agent's answer, for a step
    oracle: base.Advisor | None = None  # for a reset: whose advice to give


class Answer(NamedTuple):
    """What came of a call; exactly one of `result` and `error` is set."""

    instruction: str | None = None  # after a reset
    result: base.StepResult | None = None
    advice: str | None = None  # what the oracle would answer; None if it refuses
    error: str | None = None  # a traceback, or what is wrong with the result
    fault: faults.Fault | None = None  # the kind of error

    def encode(self) -> bytes:
        """Pickles the fields: the classes would take longer than a quick step does."""
        result = self.result and {
            **vars(self.result),
            "info": vars(self.result.info),
        }
        fields = self.instruction, result, self.advice, self.error, self.fault
        return pickle.dumps(fields, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def decode(cls, message: bytes) -> "Answer":
        """Reads what `encode` has written."""
        instruction, result, advice, error, fault = pickle.loads(message)
        if result is not None:
            result["info"] = base.StepInfo(**result["info"])
            result = base.StepResult(**result)
        return cls(instruction, result, advice, error, fault)


def are_equal(message: bytes, other: bytes) -> bool:
    """Whether two encoded answers say the same."""
    # Equal fields can be encoded in two ways, as the same object twice or as two.
    return message == other or pickle.loads(message) == pickle.loads(other)


@dataclasses.dataclass
class _Instance:
    """An environment, and the oracle that watches its episode, if one was asked for."""

    env: base.Environment
    oracle: base.Oracle | None = None

    def advise(self, result: base.StepResult) -> str | None:
        """Returns the oracle's answer to an observation."""
        if self.oracle is None or result.done:
            return None
        try:
            advice = self.oracle.act(result.observation)
        except base.OracleRefusalError:
            self.oracle = None
            return None
        return episodes.check_answer(advice)


class Instances:
    """The environments of one worker: one instance per slot and environment."""

    def __init__(self, settings: Settings):
        self._configs = settings.configs
        self._max_bytes = settings.max_observation_bytes
        self._instances: dict[tuple[int, str], _Instance] = {}
        self.acknowledgements: dict[str, str] = {}
        for name, config in settings.configs.items():  # fail now, not in each episode
            made = registry.make(name, config)
            self.acknowledgements[name] = border.check_text(
                "acknowledgement", made.acknowledgement, self._max_bytes
            )
            made.close()

    def answer(self, call: Call) -> bytes:
        """Runs one call and returns its encoded `Answer`; errors become text."""
        pid = os.getpid()
        try:
            message = self._run(call).encode()
            _end_copy(pid)
            return message
        except BaseException as error:  # the worker border: whatever it raises
            _end_copy(pid)
            invalid = isinstance(error, base.InvalidResultError)
            text = _explain(error)
            self._drop(call)
        fault = faults.Fault.INVALID if invalid else faults.Fault.RAISED
        return Answer(error=border.shorten_error(text), fault=fault).encode()

    def close(self) -> None:
        """Closes every instance."""
        for instance in self._instances.values():
            instance.env.close()

    def _run(self, call: Call) -> Answer:
        key = call.slot, call.env
        if call.item_id is None:
            instance = self._instances[key]
            step = instance.env.step(call.text)
            result = border.check_result(step, self._max_bytes)
            return Answer(None, result, instance.advise(result))
        if key not in self._instances:
            made = registry.make(call.env, self._configs[call.env])
            self._instances[key] = _Instance(made)
        instance = self._instances[key]
        env, instance.oracle = instance.env, None
        observation = border.check_text(
            "the first observation", env.reset(call.item_id), self._max_bytes
        )
        result = base.StepResult(observation)
        instruction = border.check_text("instruction", env.instruction, self._max_bytes)
        if call.oracle is not None:
            with contextlib.suppress(base.OracleRefusalError):
                instance.oracle = episodes.make_advisor(env, call.item_id, call.oracle)
        return Answer(instruction, result, instance.advise(result))

    def _drop(self, call: Call) -> None:
        """Forgets an instance that raised: its state can no longer be trusted."""
        instance = self._instances.pop((call.slot, call.env), None)
        try:
            if instance is not None:
                instance.env.close()
        except BaseException:  # the border again; the first error is the one to tell
            traceback.print_exc()


def _end_copy(pid: int) -> None:
    """Ends this process if it is a copy that an environment has made by forking."""
    if os.getpid() != pid:
        os._exit(0)


def _close_copy(handle: int) -> None:
    """Closes a copy's end of the socket, so that the worker's death can be seen."""
    with contextlib.suppress(OSError):  # an environment may have closed it
        os.close(handle)


def _read(link: socket.socket, token: int, inbox: queue.SimpleQueue) -> None:
    """Moves messages to `inbox`, and ends the worker some time after the parent."""
    number = 0
    with contextlib.suppress(EOFError, OSError), link.makefile("rb") as stream:
        while True:
            inbox.put(pickle.loads(wire.read(stream, token, number)))
            number += 1
    inbox.put(None)
    time.sleep(GRACE_S)  # the main thread may hang in an environment
    _end_group()


def _end_group() -> None:
    """Ends this process and all that its environments started."""
    with contextlib.suppress(
        Exception
    ):  # an environment may have closed or replaced it
        sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


def _explain(error: BaseException) -> str:
    """What is told of an error: its message if that says what to do, else all of it."""
    if isinstance(error, _SELF_EXPLAINING):
        return str(error)
    return "".join(traceback.format_exception(error))


def serve(link: socket.socket, token: int) -> None:
    """Answers calls until the parent closes its end.

    Receives `Settings`, answers the acknowledgement of each environment, or the text of
    the error that keeps it from starting; then receives lists of `Call` and sends
    `Answer`s.
    """
    inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, token, inbox), daemon=True).start()
    settings = inbox.get()
    try:
        instances = Instances(settings)
    except Exception as error:  # the worker border: bad configuration, missing data
        link.sendall(wire.frame(token, 0, pickle.dumps(_explain(error))))
        return
    link.sendall(wire.frame(token, 0, pickle.dumps(instances.acknowledgements)))
    limit, number = settings.memory_limit_bytes, 0
    while (calls := inbox.get()) is not None:
        for call in calls:
            message = instances.answer(call)
            if limit is not None and memory.resident_bytes() > limit:
                os._exit(MEMORY_EXIT_CODE)  # before it answers: the call is to blame
            number += 1
            link.sendall(wire.frame(token, number, message))
    instances.close()


def main() -> None:
    """Entry point; the argument is the descriptor of the socket."""
    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)  # programs an environment starts must not hold it
    os.dup2(2, 1)  # what an environment prints must not mix with the parent's output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    # So is SIGTERM, which Slurm sends to all processes of a job. It is not ignored, but
    # handled by doing nothing, so that programs an environment starts have the default.
    signal.signal(signal.SIGTERM, lambda *_: None)
    # A parent that has gone needs no answer.
    with socket.socket(fileno=handle) as link, contextlib.suppress(OSError):
        # Not `link.close`, which waits for the stream that the other thread reads.
        os.register_at_fork(after_in_child=lambda: _close_copy(handle))
        token = int.from_bytes(link.recv(8, socket.MSG_WAITALL), sys.byteorder)
        serve(link, token)
    _end_group()
