"""A worker process of the pool: plays many environments, one call at a time.

`agentrl.envs.pool` starts it and holds the other end of its socket. A worker receives the
configurations once, then batches of calls, and answers each call as soon as it is done,
in the order received. So the first call without an answer is the one that is running,
which tells a call that hangs or kills its worker from those that waited behind it.

A second thread reads the socket all the time. Hence the parent's sends never wait for
a busy environment, and the worker notices at once when its parent is gone.
"""

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing import connection

from agentrl.envs import base, registry

GRACE_S = 2.0  # for closing environments once the parent has gone or closed the pool


@dataclasses.dataclass(frozen=True)
class Call:
    """One call to the environment of a slot."""

    slot: int
    env: str
    item_id: str | None  # the task to reset to; None for a step
    text: str = ""  # the agent's answer, for a step


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a call; exactly one of `result` and `error` is set."""

    instruction: str | None = None  # after a reset
    result: base.StepResult | None = None
    error: str | None = None  # a traceback

    def encode(self) -> bytes:
        """Pickles the fields: the classes would take longer than a quick step does."""
        result = self.result and {
            **vars(self.result),
            "info": vars(self.result.info),
        }
        fields = self.instruction, result, self.error
        return pickle.dumps(fields, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def decode(cls, message: bytes) -> "Answer":
        """Reads what `encode` has written."""
        instruction, result, error = pickle.loads(message)
        if result is not None:
            result["info"] = base.StepInfo(**result["info"])
            result = base.StepResult(**result)
        return cls(instruction, result, error)


class Instances:
    """The environments of one worker: one instance per slot and environment."""

    def __init__(self, configs: Mapping[str, base.EnvConfig]):
        self._configs = configs
        self._instances: dict[tuple[int, str], base.Environment] = {}
        for name, config in configs.items():  # fail now rather than in each episode
            registry.make(name, config).close()

    def answer(self, call: Call) -> bytes:
        """Runs one call and returns its encoded `Answer`; errors become text."""
        try:
            return self._run(call).encode()
        except Exception:  # the worker border: whatever an environment raises
            error = traceback.format_exc()
            self._drop(call)
            return Answer(error=error).encode()

    def close(self) -> None:
        """Closes every instance."""
        for env in self._instances.values():
            env.close()

    def _run(self, call: Call) -> Answer:
        key = call.slot, call.env
        if call.item_id is None:
            result = self._instances[key].step(call.text)
            if not isinstance(result, base.StepResult):
                raise TypeError(f"step() returned {type(result)}, not a StepResult.")
            return Answer(result=result)
        if key not in self._instances:
            self._instances[key] = registry.make(call.env, self._configs[call.env])
        env = self._instances[key]
        observation = env.reset(call.item_id)
        result = base.StepResult(observation)
        return Answer(instruction=env.instruction, result=result)

    def _drop(self, call: Call) -> None:
        """Forgets an instance that raised: its state can no longer be trusted."""
        env = self._instances.pop((call.slot, call.env), None)
        try:
            if env is not None:
                env.close()
        except Exception:  # the worker border again; the first error is the one to tell
            traceback.print_exc()


def _read(link: connection.Connection, inbox: queue.SimpleQueue) -> None:
    """Moves messages to `inbox`, and ends the worker some time after the parent."""
    while True:
        try:
            inbox.put(link.recv())
        except (EOFError, OSError):
            break
    inbox.put(None)
    time.sleep(GRACE_S)  # the main thread may hang in an environment
    _end_group()


def _end_group() -> None:
    """Ends this process and all that its environments started."""
    sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


def serve(link: connection.Connection) -> None:
    """Answers calls until the parent closes its end.

    Receives a mapping of configurations, answers None or the text of the error that
    keeps it from starting, then receives lists of `Call` and sends `Answer`s.
    """
    inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, inbox), daemon=True).start()
    try:
        instances = Instances(inbox.get())
    except Exception:  # the worker border: bad configuration, missing data
        link.send(traceback.format_exc())
        return
    link.send(None)
    while (calls := inbox.get()) is not None:
        for call in calls:
            link.send_bytes(instances.answer(call))
    instances.close()


def main() -> None:
    """Entry point; the only argument is the descriptor of the socket."""
    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)  # programs an environment starts must not hold it
    os.dup2(2, 1)  # what an environment prints must not mix with the parent's output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    # So is SIGTERM, which Slurm sends to all processes of a job. It is not ignored, but
    # handled by doing nothing, so that programs an environment starts have the default.
    signal.signal(signal.SIGTERM, lambda *_: None)
    # A parent that has gone needs no answer.
    with connection.Connection(handle) as link, contextlib.suppress(BrokenPipeError):
        serve(link)
    _end_group()
