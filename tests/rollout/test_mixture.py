import collections

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from agentrl import config
from agentrl.rollout import mixture

ENVIRONMENTS = ("a", "b", "c")
STAGE = config.MixtureConfig(environments=(("a", 1.0), ("b", 3.0)))
KEY = jax.random.key(7)


def make_draw(stage=STAGE, sizes=(5, 7, 3), num_groups=8):
    return jax.jit(
        lambda state, step: mixture.draw_tasks(
            state, KEY, step, stage=stage, panel_sizes=sizes, num_groups=num_groups
        )
    )


def test_shares_are_exact_and_absent_environments_never_drawn():
    draw = make_draw()
    state = mixture.init(STAGE, ENVIRONMENTS)
    for step in range(20):
        env_ids, _, state = draw(state, jnp.int32(step))
        # Systematic sampling: 8 groups at weights 1:3 are always 2 and 6.
        np.testing.assert_array_equal(np.bincount(env_ids, minlength=3), [2, 6, 0])
    np.testing.assert_array_equal(state.cursors, [40, 120, 0])


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    size=st.integers(1, 9), num_groups=st.integers(1, 12), steps=st.integers(1, 5)
)
def test_every_task_comes_once_before_any_comes_again(size, num_groups, steps):
    stage = config.MixtureConfig(environments=(("a", 1.0),))
    draw = make_draw(stage, (size,), num_groups)
    state = mixture.init(stage, ("a",))
    drawn = []
    for step in range(steps):
        _, tasks, state = draw(state, jnp.int32(step))
        drawn += (
            sorted(np.asarray(tasks).tolist()) if num_groups == size else list(tasks)
        )
    counts = collections.Counter(int(t) for t in drawn)
    assert set(counts) <= set(range(size))
    expected = [len(drawn) // size, -(-len(drawn) // size)]
    assert all(counts[t] in expected for t in range(size))


def test_draws_repeat_from_a_saved_state():
    draw = make_draw()
    state = mixture.init(STAGE, ENVIRONMENTS)
    for step in range(3):
        _, _, state = draw(state, jnp.int32(step))
    first = draw(state, jnp.int32(3))
    again = draw(jax.device_put(jax.device_get(state)), jnp.int32(3))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_weights_by_hand():
    state = mixture.init(STAGE, ENVIRONMENTS)
    tempered = config.MixtureConfig(
        environments=STAGE.environments, kind="tempered", temperature=2.0
    )
    np.testing.assert_allclose(
        mixture.effective_weights(state, tempered), [1, 3**0.5, 0], rtol=1e-6
    )
    adaptive = config.MixtureConfig(environments=STAGE.environments, kind="adaptive")
    # Success 0.9 in 'a', 1.0 in 'b': learnabilities 0.09 and, at the floor, 0.05.
    state = mixture.record_success(
        state, jnp.array([9.0, 4.0, 0.0]), jnp.array([10.0, 4.0, 0.0])
    )
    np.testing.assert_allclose(
        mixture.effective_weights(state, adaptive), [0.09, 0.15, 0], rtol=1e-5
    )


def test_running_success_ignores_environments_that_were_not_played():
    state = mixture.init(STAGE, ENVIRONMENTS)
    state = mixture.record_success(
        state, jnp.array([1.0, 0.0, 0.0]), jnp.array([2.0, 0.0, 0.0])
    )
    np.testing.assert_allclose(state.success, [0.5, -1, -1])
    state = mixture.record_success(
        state, jnp.array([2.0, 0.0, 0.0]), jnp.array([2.0, 0.0, 0.0])
    )
    np.testing.assert_allclose(state.success, [0.55, -1, -1], rtol=1e-6)
