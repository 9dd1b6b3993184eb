"""What tests of the pool share."""

import contextlib
import pathlib
import time

import pytest

from agentrl.envs import base, registry, supervisor

HERE = pathlib.Path(__file__).parent
CONFIGS = {"scripted": base.EnvConfig()}


@contextlib.contextmanager
def scripted_registered():
    """Registers the scripted environment here and in workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setitem(registry._MODULES, "scripted", "scripted_env")
        patch.setenv("AGENTRL_ENVS", "scripted=scripted_env")
        yield


class Clock:
    """The pool's clock, which a test can advance: no test waits for a deadline."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead

    @classmethod
    def install(cls, monkeypatch):
        clock = cls()
        monkeypatch.setattr(supervisor, "clock", clock)
        return clock


def start(envs, slots):
    envs.send_reset({slot: f"scripted_{slot}" for slot in slots})
    return envs.receive(slots)


def play(envs, actions):
    envs.send_step(actions)
    return envs.receive(list(actions))


def say(envs, slot, action):
    """Plays one action and returns the observation it led to."""
    reply = play(envs, {slot: action})[slot]
    assert reply.error is None
    return reply.result.observation


def hang(envs, clock, slot, others, path):
    """Lets a slot hang while others have calls; their deadline passes at once.

    Calls of other workers are answered before.
    """
    envs.send_step({slot: f"hang {path}"} | others)
    apart = [s for s in others if (s - slot) % envs.num_workers]
    wait_until(lambda: path.exists() and envs.arrived(apart))
    clock.ahead += 1000
    replies = envs.receive([slot, *others])
    clock.ahead -= 1000
    return replies


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
