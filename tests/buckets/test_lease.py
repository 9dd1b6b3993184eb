"""Who may work in a folder of a store, and who waits."""

import json

import pytest

from agentrl import errors
from agentrl.buckets import lease, objects

URL = "memory://bucket/run"


class Waiter:
    """A clock for `lease.Lease`, and something that happens when somebody first waits."""

    def __init__(self, happens=lambda: None):
        self.now, self.slept, self._happens = 1000.0, 0.0, happens

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept += seconds
        happens, self._happens = self._happens, lambda: None
        happens()

    def lease(self):
        return lease.Lease(objects.Store(URL), clock=self.clock, sleep=self.sleep)


def held_until(until, owner="x"):
    told = {"owner": owner, "host": "other", "process": 7, "until": until}
    objects.Store(URL).write(lease.NAME, json.dumps(told).encode())


@pytest.mark.parametrize(
    ("owner", "until"), [("x", 1130.0), ("y", 1100.0)], ids=["renewed", "taken"]
)
def test_two_processes_do_not_train_one_run(owner, until):
    waiter = Waiter(lambda: held_until(until, owner))
    held_until(1100.0)
    in_use = pytest.raises(errors.ConfigError, match="in use by process 7 on other:")
    with in_use, waiter.lease():
        pass
    assert waiter.slept < lease.SECONDS / 4


@pytest.mark.parametrize("until", [1090.0, 1e9], ids=["", "clock ahead"])
def test_the_lease_of_a_killed_process_is_waited_for(until, capsys):
    waiter = Waiter()
    held_until(until)
    with waiter.lease():
        assert waiter.slept == min(until - 1000.0, lease.SECONDS)
    (told,) = capsys.readouterr().out.splitlines()
    assert "held by process 7 on other" in told
    with waiter.lease():  # given back, so that nobody waits
        pass
    held_until(waiter.now)
    with waiter.lease():  # run out
        assert not capsys.readouterr().out


def test_a_lease_that_is_given_back_is_taken_at_once():
    waiter = Waiter(lambda: objects.Store(URL).remove([lease.NAME]))
    held_until(1100.0)
    with waiter.lease():
        assert waiter.slept < lease.SECONDS / 4
