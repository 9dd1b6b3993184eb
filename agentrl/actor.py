"""The actor: plays the episodes that an iteration of the loop trains on.

An iteration trains on P groups of G episodes. They are drawn from the stage's mixture on
the device, and played with one copy of the policy's parameters. What else may be wanted of
them: that they carry a signal (`play_whole`, with `max_refills`), or that the
iteration does not wait for its longest episodes (`play_partial`, with `extra_groups`).
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from agentrl import types
from agentrl.hardware import timing
from agentrl.learner import algorithms
from agentrl.parallel import processes, rng
from agentrl.pending import experiences
from agentrl.reporting import metrics
from agentrl.rollout import collect, mixture, partial
from agentrl.run import assemble, checks, stages

# Episodes, the mixture after their draws, and what they cost.
Played: TypeAlias = tuple[list[types.Trajectory], types.MixtureState, types.Metrics]


@dataclasses.dataclass(frozen=True)
class PolicySnapshot:
    """The behavior policy: a copy of the parameters at some optimizer step."""

    params: types.PyTree  # in the rollout's layout
    step: int

    @classmethod
    def take(cls, run: assemble.Run, learner: types.TrainState) -> "PolicySnapshot":
        """Copies the parameters of `learner`, which may then be donated."""
        return cls(run.rollout_params(learner.params), int(learner.step))


def play(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.RunState,
    iteration: int,
    ahead: experiences.Ahead,
    timers: timing.Timers,
    snapshot: PolicySnapshot | None = None,
) -> experiences.Ahead:
    """Plays the episodes of an iteration.

    Args:
      run: the run.
      stage: the stage.
      state: its mixture draws the tasks.
      iteration: of the stage.
      ahead: what of it has been played already.
      timers: of the run.
      snapshot: the policy; None takes that of `state`.

    Returns:
      The episodes of the iteration, and with `extra_groups` what goes on after it.
    """
    if snapshot is None:
        snapshot = PolicySnapshot.take(run, state.learner)
    carried = ahead.carried or partial.PartialRollout([], [])
    if stage.settings.extra_groups or carried.num_groups:
        trajectories, draws, values, carried = play_partial(
            run, stage, state.mixture, iteration, carried, timers, snapshot
        )
    else:
        trajectories, draws, values = play_whole(
            run, stage, state.mixture, iteration, timers, snapshot
        )
    checks.check_env_error_rate(trajectories, run.config.max_env_error_fraction)
    values |= metrics.summarize_trajectories(trajectories)
    draws = record_success(run, draws, trajectories)
    return experiences.Ahead(
        experiences.Experience(iteration, trajectories, draws, values),
        carried if carried.num_drawn else None,
    )


def play_whole(
    run: assemble.Run,
    stage: stages.Stage,
    draws: types.MixtureState,
    iteration: int,
    timers: timing.Timers,
    snapshot: PolicySnapshot,
) -> Played:
    """Plays P groups; with refills, further ones until P of them carry a signal."""
    settings = stage.settings
    assert stage.collector is not None
    size, rounds = settings.rollout.group_size, stage.algorithm.max_refills + 1
    trajectories: list[types.Trajectory] = []
    statistics, missing = collect.Statistics(), settings.rollout.tasks_per_iteration
    for refill in range(rounds):
        draw = iteration * rounds + refill
        with timers("mixture"):
            item_ids, draws = draw_items(run, stage, draws, draw, missing)
        with timers("rollout"):
            played, cost = stage.collector.collect(
                snapshot.params,
                assemble.make_tasks(
                    item_ids, size, first_group=len(trajectories) // size
                ),
                key=rng.stream_key(stage.key, "rollout", draw),
                policy_step=snapshot.step,
                max_turns=stage.max_turns(iteration),
            )
        trajectories, statistics = [*trajectories, *played], statistics + cost
        missing -= algorithms.count_informative(played, settings)
        if not missing:
            break
    values = statistics.summarize()
    if rounds > 1:
        values |= {"rollout/refills": refill, "rollout/groups_missing": missing}
    return trajectories, draws, values


def play_partial(
    run: assemble.Run,
    stage: stages.Stage,
    draws: types.MixtureState,
    iteration: int,
    carried: partial.PartialRollout,
    timers: timing.Timers,
    snapshot: PolicySnapshot,
) -> tuple[*Played, partial.PartialRollout]:
    """Plays until P groups are complete, and leaves the others for the next iteration."""
    settings = stage.settings
    assert stage.collector is not None
    num_groups, hosts = settings.rollout.tasks_per_iteration, jax.process_count()
    still_to_train = (settings.num_iterations - iteration) * num_groups
    in_play = min(num_groups + settings.extra_groups, still_to_train)
    missing, item_ids = in_play - hosts * carried.num_groups, []
    for part in range(2):  # a draw is of P groups at most, and extra ones are no more
        with timers("mixture"):
            count = min(num_groups, missing - len(item_ids))
            drawn, draws = draw_items(run, stage, draws, 2 * iteration + part, count)
        item_ids += drawn
    size = settings.rollout.group_size
    next_update = snapshot.step + 1 + settings.overlap
    target = partial.Target(
        num_groups // hosts, size, oldest_step=next_update - settings.max_staleness
    )
    with timers("rollout"):
        trajectories, left, cost = stage.collector.collect_groups(
            snapshot.params,
            assemble.make_tasks(item_ids, size, first_group=carried.num_drawn),
            carried,
            target,
            key=rng.stream_key(stage.key, "rollout", iteration),
            policy_step=snapshot.step,
            max_turns=stage.max_turns(iteration),
        )
    if left.num_groups and iteration + 1 == settings.num_iterations:
        stage.collector.abandon(left)  # the stage has been made shorter meanwhile
        if processes.is_process_zero():
            lost = hosts * left.num_groups
            print(f"{lost} groups that had begun are given up.", flush=True)
        left = partial.PartialRollout([], [], left.num_drawn)
    values = cost.summarize() | {"rollout/carried_episodes": left.num_begun}
    return trajectories, draws, values, left


def draw_items(
    run: assemble.Run,
    stage: stages.Stage,
    draws: types.MixtureState,
    draw: int,
    count: int,
) -> tuple[list[str], types.MixtureState]:
    """Draws the tasks of up to P groups on the device, from the stage's mixture.

    Args:
      run: the run.
      stage: the stage.
      draws: state of the mixture.
      draw: number of the draw, in the stage.
      count: tasks to draw.

    Returns:
      Item ids, and the mixture afterwards.
    """
    if count < 1:
        return [], draws
    env_ids, items, draws = stage.draw_tasks(
        draws, stage.key, jnp.int32(draw), jnp.int32(count)
    )
    drawn = zip(*jax.device_get((env_ids, items)), strict=True)
    panels = [stage.panels.get(name) for name in run.environments]
    return [panels[env].item_ids[item] for env, item in drawn][:count], draws


def record_success(
    run: assemble.Run,
    state: types.MixtureState,
    trajectories: Sequence[types.Trajectory],
) -> types.MixtureState:
    """Feeds an iteration's successes back to the mixture.

    Episodes that their environments lost say nothing of the policy and are left out.
    """
    totals = np.zeros((2, len(run.environments)), np.float32)
    for trajectory in trajectories:
        if trajectory.ending.lost:
            continue
        env = run.environments.index(trajectory.task.env)
        totals[:, env] += (trajectory.success, 1)
    return mixture.record_success(state, *jax.device_put(totals))
