"""What a run goes on from: state, episodes played ahead, environments that came later."""

import dataclasses

import bigram_run
import jax
import numpy as np
import pytest

from agentrl import config, errors, types
from agentrl.checkpoints import checkpoint
from agentrl.pending import experiences
from agentrl.run import resume


def make_run(num_environments=2, **rollout):
    """A run of one stage on the farm alone, perhaps with a mine beside it."""
    settings = dataclasses.replace(
        bigram_run.make_stage("only", config.Grpo()).rollout, **rollout
    )
    run = bigram_run.make_run(
        bigram_run.make_stage(
            "only", config.Grpo(), environments=("farm",), rollout=settings
        )
    )
    run.environments = bigram_run.ENVIRONMENTS[:num_environments]
    return run


def save(run, workdir, *, ahead=True):
    """Saves a state whose mixture has a history, with the next iteration's episodes."""
    stage, state = bigram_run.start(run)
    mixture = dataclasses.replace(
        state.mixture,
        success=state.mixture.success + 1.25,
        cursors=state.mixture.cursors + 7,
    )
    state = dataclasses.replace(state, mixture=mixture)
    episodes = [
        bigram_run.make_episode(i, bigram_run.copy(state.learner.params))
        for i in range(4)
    ]
    played = experiences.Experience(
        1, episodes, mixture, {"a": np.float32(0.1), "b": 3, "c": float("nan")}
    )
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(
            state,
            types.Progress(stage_name="only", iteration=1),
            episodes=experiences.to_json(
                experiences.Ahead(played), stage.settings.rollout
            )
            if ahead
            else None,
        )
    return state, played


def restore(run, workdir):
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        return resume.restore(run, 0, checkpoints.latest_step(), checkpoints)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(one, other)


def test_episodes_that_were_played_ahead_come_back_bit_for_bit(tmp_path):
    run = make_run()
    state, played = save(run, tmp_path)
    restored, found = restore(run, tmp_path)
    ahead = found.experience

    assert found.carried is None
    assert_same(restored, state)
    assert ahead.iteration == 1
    assert_same(ahead.mixture, played.mixture)
    assert ahead.values == pytest.approx(
        {"a": float(np.float32(0.1)), "b": 3, "c": float("nan")}, rel=0, nan_ok=True
    )
    for one, other in zip(ahead.trajectories, played.trajectories, strict=True):
        assert dataclasses.replace(one, turns=()) == dataclasses.replace(
            other, turns=()
        )
        assert type(one.ending) is types.Ending
        for turn, expected in zip(one.turns, other.turns, strict=True):
            assert_same(vars(turn), vars(expected))


def test_without_overlap_no_episodes_are_stored(tmp_path):
    save(make_run(), tmp_path, ahead=False)
    assert restore(make_run(), tmp_path)[1] is None


def test_episodes_of_other_groups_are_played_anew(tmp_path):
    save(make_run(), tmp_path)
    assert restore(make_run(group_size=4), tmp_path)[1] is None


def test_episodes_that_are_missing_are_a_damage(tmp_path):
    save(make_run(), tmp_path)
    (path,) = (tmp_path / "checkpoints").glob("*/episodes/metadata")
    path.unlink()
    with pytest.raises(errors.CheckpointError, match="episodes/metadata is missing"):
        restore(make_run(), tmp_path)


def test_an_environment_that_comes_later_has_not_been_drawn(tmp_path):
    save(make_run(num_environments=1), tmp_path)
    restored, ahead = restore(make_run(), tmp_path)
    for mixture in (restored.mixture, ahead.experience.mixture):
        np.testing.assert_array_equal(mixture.weights, [1, 0])
        np.testing.assert_array_equal(mixture.success, [0.25, -1])
        np.testing.assert_array_equal(mixture.cursors, [7, 0])
