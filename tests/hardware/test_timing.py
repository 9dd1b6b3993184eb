import jax
import jax.numpy as jnp
import pytest

from agentrl.hardware import timing


def test_timers_add_up_and_start_anew():
    timers = timing.Timers()
    with timers("total"):
        for _ in range(2):
            with timers("part"):
                sum(range(10_000))

    seconds = timers.pop()
    assert list(seconds) == ["time/part", "time/total"]
    assert 0 < seconds["time/part"] <= seconds["time/total"]
    assert timers.pop() == {}


def test_a_timer_counts_what_raised():
    timers = timing.Timers()
    with pytest.raises(KeyError), timers("part"):
        raise KeyError

    assert list(timers.pop()) == ["time/part"]


def test_compilations_are_counted_once_per_program():
    counter = timing.CompilationCounter()
    double = jax.jit(lambda x: x * 2 + 41)
    inputs = [jnp.zeros(5), jnp.ones(5), jnp.zeros(6)]
    counter.pop()

    double(inputs[0])
    assert counter.pop() == 1
    double(inputs[1])
    assert counter.pop() == 0
    double(inputs[2])
    assert counter.pop() == 1


def test_timers_say_where_a_run_is():
    timers = timing.Timers()
    assert timers.describe() == "its start"
    timers.place = "stage 'a', iteration 3"
    with timers("total"), timers("update"):
        assert timers.describe() == "stage 'a', iteration 3: update"
    assert timers.describe() == "stage 'a', iteration 3"
