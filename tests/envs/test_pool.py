"""The pool: what goes in comes out, once, whatever the environments do."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap

import hypothesis
import hypothesis.strategies as st
import pytest
from pool_helpers import (
    CONFIGS,
    HERE,
    Clock,
    hang,
    play,
    say,
    scripted_registered,
    start,
    wait_until,
)

from agentrl.envs import base, faults, pool, registry

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def scripted():
    with scripted_registered():
        yield


@pytest.fixture(scope="module")
def shared():
    """A pool for tests whose environments behave."""
    with pool.EnvPool(CONFIGS, num_workers=2) as envs:
        yield envs


@pytest.fixture
def envs():
    """A pool of its own, for tests that break workers."""
    with pool.EnvPool(CONFIGS, num_workers=2) as envs:
        yield envs


@pytest.fixture
def clock(monkeypatch):
    return Clock.install(monkeypatch)


def state_of(pid):
    """What Linux says of a process: R, S, T (stopped), Z (ended), ...; None if gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return text.rpartition(")")[2].split()[0]


def is_alive(pid):
    return state_of(pid) not in (None, "Z")


# What goes in comes out.


def test_reset_tells_the_rules_and_the_first_observation(shared):
    reply = start(shared, [5])[5]

    assert reply == pool.Reply(5, "Say a command.", base.StepResult("total 5"))


def test_slots_are_apart_and_spread_over_workers(shared):
    slots = range(40)
    start(shared, slots)
    replies = play(shared, {slot: f"add {100 * slot}" for slot in slots})
    pids = [say(shared, slot, "pid") for slot in slots]

    assert {s: r.result.observation for s, r in replies.items()} == {
        s: f"total {101 * s}" for s in slots
    }
    assert pids == pids[:2] * 20
    assert len({*pids, str(os.getpid())}) == 3


def test_an_instance_is_kept_for_its_slot(shared):
    start(shared, [0, 2])
    serials = [say(shared, slot, "serial") for slot in (0, 2)]
    start(shared, [0, 2])

    assert [say(shared, slot, "serial") for slot in (0, 2)] == serials
    assert len(set(serials)) == 2


COMMANDS = st.sampled_from(["add 1", "add 20", "nonsense", "", "flood 3", "Ä\ud800\0"])


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
    actions=st.lists(
        st.lists(COMMANDS, min_size=12, max_size=12), min_size=5, max_size=5
    )
)
def test_the_pool_changes_nothing(shared, actions):
    local = [registry.make("scripted") for _ in actions]
    slots = range(len(actions))

    replies = start(shared, slots)
    expected = {s: local[s].reset(f"scripted_{s}") for s in slots}
    assert {s: r.result.observation for s, r in replies.items()} == expected

    for turn in range(8):  # the turn limit
        texts = {s: actions[s][turn] for s in slots}
        replies = play(shared, texts)
        assert {s: r.result for s, r in replies.items()} == {
            s: local[s].step(texts[s]) for s in slots
        }
    assert all(reply.result.truncated for reply in replies.values())


def test_replies_come_as_they_finish(shared, tmp_path):
    start(shared, [0, 1, 3])
    flag = tmp_path / "flag"
    shared.send_step({0: f"await {flag}", 1: "add 1", 3: "add 1"})

    first = shared.receive([0, 1], wait_for_all=False)
    assert list(first) == [1]
    while not shared.arrived([3]):
        pass
    assert not shared.arrived([0, 3])

    flag.touch()
    assert shared.receive([0])[0].result.observation == "it exists"
    assert shared.receive([3])[3].result.observation == "total 4"  # kept for later
    assert shared.arrived([]) and shared.receive([]) == {}


def test_large_messages_both_ways_at_once(shared):
    """Neither side may wait for the other to read."""
    slots = range(0, 200, 2)  # all in one worker
    start(shared, slots)
    shared.send_step(dict.fromkeys(slots[:50], "flood 100000"))
    shared.send_step(dict.fromkeys(slots[50:], "x" * 10**6))

    replies = shared.receive(slots)

    assert {len(replies[s].result.observation) for s in slots[:50]} == {100000}
    assert not any(replies[s].result.info.valid_action for s in slots[50:])


# Misuse is told at once.


def test_misuse_is_told_at_once(shared):
    start(shared, [0])
    with pytest.raises(pool.PoolError, match="slot 77 holds no live episode"):
        shared.send_step({77: "add 1"})
    with pytest.raises(pool.PoolError, match=r"nothing is in flight for slots \[0\]"):
        shared.receive([0])
    shared.send_step({0: "add 1"})
    with pytest.raises(pool.PoolError, match="slot 0 has a call in flight"):
        shared.send_step({0: "add 1"})
    with pytest.raises(pool.PoolError, match="slot 0 has a call in flight"):
        shared.send_reset({0: "scripted_1"})
    shared.receive([0])
    with pytest.raises(base.UnknownItemError, match=r"'babyai_1': the pool plays"):
        shared.send_reset({0: "scripted_9", 2: "babyai_1"})
    with pytest.raises(
        base.UnknownItemError, match=r"'scripted7'.*'_' and a number. Correct the panel"
    ):
        shared.send_reset({0: "scripted7"})
    assert say(shared, 0, "add 1") == "total 2"  # what was refused left no trace


def test_an_ended_episode_takes_no_step(shared):
    start(shared, [0])
    replies = [play(shared, {0: "add 1"})[0] for _ in range(8)]
    assert [r.result.done for r in replies] == [False] * 7 + [True]
    with pytest.raises(pool.PoolError, match="slot 0 holds no live episode"):
        shared.send_step({0: "add 1"})


@pytest.mark.parametrize("workers, timeout", [(0, 1.0), (-1, 1.0), (1, 0.0)])
def test_sizes_must_be_positive(workers, timeout):
    with pytest.raises(ValueError, match=f"num_workers = {workers}"):
        pool.EnvPool(CONFIGS, num_workers=workers, call_timeout_s=timeout)


def test_an_environment_that_cannot_be_made_is_told_at_the_start():
    configs = {"scripted": base.EnvConfig(options={"refuse": True})}
    with pytest.raises(pool.PoolError, match="told to refuse") as error:
        pool.EnvPool(configs, num_workers=2)
    assert "Traceback" not in str(error.value)
    with pytest.raises(pool.PoolError, match=r"'scriptde'.*Did you mean"):
        pool.EnvPool({"scriptde": base.EnvConfig()}, num_workers=1)


def test_workers_that_cannot_start_are_given_up(tmp_path, monkeypatch):
    (tmp_path / "fatal_env.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AGENTRL_ENVS", "fatal=fatal_env")
    with pytest.raises(pool.PoolError, match=r"3 workers in a row .* exit code 7"):
        pool.EnvPool({"fatal": base.EnvConfig()}, num_workers=1)


# What goes wrong in one place stays there, and is told.


def test_an_exception_ends_its_episode_only(envs):
    start(envs, [0, 2])
    play(envs, {0: "add 1"})
    replies = play(envs, {0: "raise the roof", 2: "add 1"})

    error = replies[0].error
    assert replies[0] == pool.Reply(0, error=error, fault=faults.Fault.RAISED)
    assert "RuntimeError: the roof" in error and "do_raise" in error
    assert "task scripted_0, turn 2, on the answer 'raise the roof'" in error
    assert "python -m agentrl.launch.play --env=scripted --task=scripted_0" in error
    assert replies[2].result.observation == "total 3"
    assert start(envs, [0])[0].result.observation == "total 0"
    assert envs.counters == pool.Counters(resets=3, steps=3, errors=1)


def test_a_task_that_does_not_exist_is_an_error_of_its_reset(envs):
    envs.send_reset({0: "scripted_900", 2: "scripted_2"})
    replies = envs.receive([0, 2])
    assert "its reset" in replies[0].error and "no task 900" in replies[0].error
    assert replies[2].error is None


def test_a_stopped_worker_stops_nobody():
    """Not even a caller that sends it more than the socket holds."""
    # Time enough for the other worker, and for the replays, on a busy machine.
    with pool.EnvPool(CONFIGS, num_workers=2, call_timeout_s=10.0) as envs:
        start(envs, range(40))
        stopped = envs._workers[0].process.pid
        os.kill(stopped, signal.SIGSTOP)
        # A signal that is on its way lets the worker take one more message.
        wait_until(lambda: state_of(stopped) == "T")

        replies = play(envs, {slot: f"x{slot:020000}" for slot in range(40)})

        assert [r.error for r in replies.values()] == [None] * 40
        assert envs.counters.respawns == 1


def test_a_killed_worker_leaves_no_process_behind(envs, clock, tmp_path):
    start(envs, [0, 1])
    children = [int(say(envs, slot, "spawn")) for slot in (0, 1)]
    hang(envs, clock, 0, {}, tmp_path / "hangs")
    wait_until(lambda: not is_alive(children[0]))
    assert is_alive(children[1])
    envs.close()
    wait_until(lambda: not is_alive(children[1]))


def test_deadlines_do_not_run_while_nobody_waits(envs, clock):
    """A caller busy elsewhere, say compiling, must not make calls late."""
    start(envs, [0, 1])
    envs.send_step({0: "add 1", 1: "add 1"})
    wait_until(lambda: all(w.link.recv(1, socket.MSG_PEEK) for w in envs._workers))
    clock.ahead += 1000
    assert all(reply.error is None for reply in envs.receive([0, 1]).values())


# Workers are good guests.


def test_workers_load_no_jax_and_ignore_interrupts(shared):
    start(shared, [0])
    assert say(shared, 0, "loaded jax") == "False"
    os.kill(int(say(shared, 0, "pid")), signal.SIGINT)
    assert say(shared, 0, "add 1") == "total 1"


def test_workers_end_with_their_parent_even_if_they_hang(tmp_path):
    script = tmp_path / "parent.py"
    # Not guarded by `if __name__`: workers must not run the main module again.
    script.write_text(
        textwrap.dedent("""
            import time
            from agentrl.envs import base, pool
            envs = pool.EnvPool({"scripted": base.EnvConfig()}, num_workers=2)
            envs.send_reset({slot: f"scripted_{slot}" for slot in range(4)})
            envs.receive(range(4))
            envs.send_step({0: "pid", 1: "pid", 2: "print something stray"})
            replies = envs.receive([0, 1, 2])
            envs.send_step({0: "hang"})
            print(*(replies[s].result.observation for s in (0, 1)), flush=True)
            time.sleep(1000)
        """)
    )
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"},
    )
    assert parent.stdout is not None
    first_line = parent.stdout.readline()
    pids = [int(pid) for pid in first_line.split()]
    assert len(pids) == 2 and all(is_alive(pid) for pid in pids)

    parent.kill()
    stdout, stderr = parent.communicate()  # ends when the last worker has ended

    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert stdout == "" and stderr == "something stray\n"
