"""What goes wrong in one episode stays there, is told, and costs no other episode."""

import math
import re

import pytest
from pool_helpers import CONFIGS, Clock, hang, play, say, scripted_registered, start

from agentrl.envs import base, border, faults, pool
from agentrl.envs.faults import Fault

MEMORY = 200 << 20


@pytest.fixture(scope="module", autouse=True)
def scripted():
    with scripted_registered():
        yield


@pytest.fixture
def envs():
    with pool.EnvPool(CONFIGS, num_workers=2) as envs:
        yield envs


@pytest.fixture(scope="module")
def shared():
    with pool.EnvPool(CONFIGS, num_workers=1) as envs:
        yield envs


@pytest.fixture
def clock(monkeypatch):
    return Clock.install(monkeypatch)


# Types and numbers of results.


@pytest.mark.parametrize(
    "value, problem",
    [
        ("nothing", "_apply() returned None (NoneType); it must return a StepResult"),
        ("text", "_apply() returned 'observation' (str)"),
        ("none", "observation is None (NoneType); it must be a str"),
        ("bytes", "observation is b'total 1' (bytes); it must be a str"),
        ("function", "info.score is <function"),
        ("nan", "reward is nan; it must be a finite number"),
        ("inf", "reward is -inf; it must be a finite number"),
        ("huge", "reward is inf; it must be a finite number"),
        ("number_as_text", "reward is '1.0' (str); it must be a finite number"),
        ("no_number", "reward is None (NoneType); it must be a finite number"),
        ("flag_as_number", "reward is True (bool); it must be a finite number"),
        ("array", "reward is array([1., 1.]) (ndarray); it must be a finite number"),
        ("score", "info.score is nan; it must be a finite number"),
        ("progress", "info.progress is 'half' (str); it must be a finite number"),
        ("terminated", "terminated is 1 (int); it must be a bool"),
        ("truncated", "truncated is None (NoneType); it must be a bool"),
        ("success", "info.success is 'yes' (str); it must be a bool"),
        ("parsed_action", "info.parsed_action is 3 (int); it must be a str"),
        ("info", "info is {'success': True} (dict); it must be a StepInfo"),
        ("long", "observation has 1048577 bytes, over the limit of 1048576"),
    ],
)
def test_a_wrong_value_ends_its_episode_and_is_named(shared, value, problem):
    start(shared, [0, 1])
    replies = play(shared, {0: f"return {value}", 1: "add 1"})

    error = replies[0].error
    assert problem in error and len(error) < 1000
    assert f"task scripted_0, turn 1, on the answer 'return {value}'" in error
    assert "python -m agentrl.launch.play --env=scripted --task=scripted_0" in error
    assert replies[0].fault is Fault.INVALID and not replies[0].timed_out
    assert replies[1].result.observation == "total 2"
    assert start(shared, [0])[0].result.observation == "total 0"


def test_first_observations_are_checked(shared):
    shared.send_reset({slot: f"scripted_{800 + slot}" for slot in range(4)})
    replies = shared.receive(range(4))
    assert "its reset" in replies[0].error
    assert "the first observation is None (NoneType)" in replies[0].error
    assert "the first observation is b'total' (bytes)" in replies[1].error
    assert replies[2].result.observation == "lone \ufffd"
    assert "the first observation has 2097152 bytes" in replies[3].error


def test_scalars_of_libraries_become_plain(shared):
    start(shared, [0])
    result = play(shared, {0: "return numpy"})[0].result
    found = [
        result.observation,
        result.reward,
        result.terminated,
        result.info.score,
        result.info.success,
    ]
    assert found == ["text", 0.5, False, 2.0, True]
    assert list(map(type, found)) == [str, float, bool, float, bool]
    assert type(play(shared, {0: "return integer"})[0].result.reward) is float
    assert say(shared, 0, "return child") == "of a class of its own"


def test_texts_can_be_encoded(shared):
    start(shared, [0])
    assert say(shared, 0, "return surrogates") == "a\ufffdb\ufffd"
    assert len(say(shared, 0, "return fits").encode()) == border.MAX_OBSERVATION_BYTES
    error = play(shared, {0: "raise \ud800" + "long " * 2000})[0].error
    assert "characters left out" in error
    assert len(error.encode()) < 2 * border.MAX_ERROR_CHARS


def test_the_limit_of_observations_can_be_set():
    with pool.EnvPool(CONFIGS, num_workers=1, max_observation_bytes=100) as envs:
        start(envs, [0, 1])
        replies = play(envs, {0: "flood 100", 1: "flood 101"})
    assert len(replies[0].result.observation) == 100
    assert "observation has 101 bytes, over the limit of 100" in replies[1].error


def test_an_environment_that_exits_python_is_one_that_raises(envs):
    start(envs, [0, 2])
    replies = play(envs, {0: "leave now", 2: "add 1"})
    assert "SystemExit: now" in replies[0].error
    assert replies[0].fault is Fault.RAISED
    assert replies[2].result.observation == "total 3"
    assert envs.counters.respawns == 0


# Workers that end.


def test_neighbours_of_a_hang_are_replayed(envs, clock, tmp_path):
    start(envs, range(8))
    play(envs, {slot: f"add {10 * slot}" for slot in range(8)})
    # All even slots live in one worker; slot 6 has no call in flight when it is killed.
    replies = hang(
        envs, clock, 0, {2: "add 1", 4: "add 1", 1: "add 1"}, tmp_path / "hangs"
    )

    assert replies[0].timed_out and "no answer within 60 s" in replies[0].error
    assert "task scripted_0, turn 2" in replies[0].error
    observed = {s: replies[s].result.observation for s in (1, 2, 4)}
    assert observed == {1: "total 12", 2: "total 23", 4: "total 45"}
    assert say(envs, 6, "add 1") == "total 67"
    assert start(envs, [0])[0].result.observation == "total 0"
    assert envs.counters == pool.Counters(
        resets=9, steps=13, errors=1, timeouts=1, replays=3, respawns=1
    )


def test_results_from_before_a_hang_arrive(envs, clock, tmp_path):
    start(envs, [0, 2, 4])
    envs.send_step({0: "add 1", 2: "add 1"})
    replies = hang(envs, clock, 4, {}, tmp_path / "hangs") | envs.receive([0, 2])
    assert [replies[s].error is None for s in (0, 2, 4)] == [True, True, False]


@pytest.mark.parametrize(
    "action, how",
    [("exit 3", "ended, exit code 3"), ("garble", "its socket was written to")],
)
def test_who_ends_a_worker_is_named_and_others_are_replayed(envs, action, how):
    start(envs, range(4))
    replies = play(envs, {0: "add 1", 2: action, 1: "add 1"})

    assert replies[2].fault is Fault.DIED
    assert "its call was running when worker 0" in replies[2].error
    assert how in replies[2].error and "task scripted_2, turn 1" in replies[2].error
    assert replies[0].result.observation == "total 1"
    assert replies[1].result.observation == "total 2"
    assert [say(envs, slot, "add 1") for slot in (0, 1, 3)] == [
        "total 2",
        "total 3",
        "total 4",
    ]
    assert envs.counters.errors == 1
    assert envs.counters.respawns == 2  # once with others, once alone


def test_who_was_killed_from_outside_goes_on(envs, tmp_path):
    start(envs, [0, 2])
    replies = play(envs, {0: f"once {tmp_path / 'killed'}", 2: "add 1"})
    assert [replies[s].result.observation for s in (0, 2)] == ["total 1", "total 3"]
    assert envs.counters.errors == 0


def test_a_worker_with_one_episode_may_be_killed_once(tmp_path):
    with pool.EnvPool(CONFIGS, num_workers=1) as envs:
        start(envs, [0])
        assert say(envs, 0, f"once {tmp_path / 'killed'}") == "total 1"


def test_an_episode_that_is_not_repeatable_ends_when_replayed(envs, tmp_path):
    start(envs, [0, 2])
    say(envs, 0, f"changes {tmp_path / 'calls'}")
    replies = play(envs, {2: "exit 1", 0: "add 1"})
    assert replies[0].fault is Fault.IMPURE
    assert "'called 2 times'" in replies[0].error
    assert "'called 1 times'" in replies[0].error
    assert "turn 1, on the answer 'changes" in replies[0].error
    assert start(envs, [0])[0].error is None


# Forks.


@pytest.mark.parametrize("action", ["fork", "fork and raise"])
def test_a_fork_answers_once(envs, action):
    start(envs, range(4))
    replies = play(envs, {0: action, 2: "add 1", 1: "add 1"})
    assert [replies[s].result.observation for s in (0, 2, 1)] == [
        "total 1",
        "total 3",
        "total 2",
    ]
    for _ in range(3):
        assert all(r.error is None for r in play(envs, {0: action, 2: action}).values())
    assert envs.counters.respawns == 0


def test_a_fork_that_stays_hides_no_death(envs, tmp_path):
    start(envs, [0, 2])
    say(envs, 0, "linger")
    replies = play(envs, {0: "exit 1", 2: "add 1"})
    assert replies[0].fault is Fault.DIED
    assert replies[2].result.observation == "total 3"


@pytest.mark.parametrize("action", ["shut"])
def test_an_environment_may_close_the_socket(envs, action):
    start(envs, [0, 2])
    replies = play(envs, {0: action, 2: "add 1"})
    assert replies[0].fault is Fault.DIED
    assert replies[2].result.observation == "total 3"


# Memory.


@pytest.fixture
def small():
    with pool.EnvPool(CONFIGS, num_workers=2, worker_memory_bytes=MEMORY) as envs:
        yield envs


@pytest.mark.parametrize("action", ["eat 300", "feast"])
def test_who_passes_the_memory_limit_is_named(small, action):
    start(small, range(4))
    replies = play(small, {0: "add 1", 2: action, 1: "add 1"})
    assert replies[2].fault is Fault.MEMORY
    assert f"used more than the limit of {MEMORY} bytes" in replies[2].error
    assert "task scripted_2, turn 1" in replies[2].error
    assert replies[0].result.observation == "total 1"
    assert say(small, 0, "add 1") == "total 2"
    assert small.counters.errors == 1


def test_episodes_that_pass_the_limit_only_together_all_go_on(small):
    start(small, [0, 2, 4])
    for _ in range(3):
        replies = play(small, {0: "eat 90", 2: "eat 90", 4: "add 1"})
        assert all(reply.error is None for reply in replies.values())
    assert replies[4].result.observation == "total 7"
    assert small.counters.respawns > 0


def test_memory_limits_that_cannot_work_are_refused(monkeypatch):
    with pytest.raises(
        ValueError, match="worker_memory_bytes = 0: it must be positive"
    ):
        pool.EnvPool(CONFIGS, num_workers=1, worker_memory_bytes=0)


# Texts.


def test_faults_are_counted_by_kind_with_the_first_of_each():
    found = [(Fault.RAISED, "one"), (Fault.TIMED_OUT, "two"), (Fault.RAISED, "three")]
    text = faults.summarize(found)
    assert text == (
        "By kind: 2 raised, 1 timed out.\n"
        "The first that raised:\none\n"
        "The first that timed out:\ntwo"
    )


def test_numbers_are_finite():
    assert math.isfinite(border._check_number("reward", 1e308))
    with pytest.raises(base.InvalidResultError, match=re.escape("reward is inf")):
        border._check_number("reward", math.inf)
