"""A small made-up run, written by the real writers, for tests of what reads one."""

import dataclasses
import json

import numpy as np

from agentrl import config, types
from agentrl.envs import base
from agentrl.experiment import files
from agentrl.models.model_config import ModelConfig
from agentrl.reporting import metrics
from agentrl.statistics import results

ENVIRONMENTS = ("textcraft", "babyai")


def make_settings(num_iterations=8):
    def stage(name, *environments, algorithm=None):
        return config.StageConfig(
            name=name,
            algorithm=algorithm or config.Dapo(),
            mixture=config.MixtureConfig(
                environments=tuple((env, 1.0) for env in environments)
            ),
            num_iterations=num_iterations,
        )

    return config.RunConfig(
        name="fake",
        stages=(
            stage("warm", *ENVIRONMENTS, algorithm=config.Supervised()),
            stage("textcraft", "textcraft"),
            stage("both", *ENVIRONMENTS),
        ),
        environments={
            "textcraft": base.EnvConfig(max_turns=20),
            "babyai": base.EnvConfig(options={"extended": True}),
        },
        model=ModelConfig(),
    )


def make_trajectory(
    env="textcraft",
    *,
    item=0,
    group=0,
    sample=0,
    success=True,
    ending=None,
    actions=("get 1 dirt",),
    observations=("Goal: craft stick.",),
    valid=True,
    final="done",
    reward=1.0,
):
    if ending is None:
        ending = types.Ending.SOLVED if success else types.Ending.MAX_TURNS
    turns = []
    for index, action in enumerate(actions):
        observation = observations[min(index, len(observations) - 1)]
        text = action if "Action:" in action else f"Action:\n{action}"
        last = index == len(actions) - 1
        turns.append(
            types.Turn(
                observation_tokens=np.arange(len(observation), dtype=np.int32),
                action_tokens=np.array([ord(c) for c in text], np.int32),
                action_logprobs=np.zeros(len(text), np.float32),
                observation=observation,
                action=text,
                reward=reward * (success and last),
                valid=valid,
            )
        )
    return types.Trajectory(
        task=types.Task(env, f"{env}_{item}", group, sample),
        turns=tuple(turns),
        ending=ending,
        policy_step=3,
        success=success,
        score=float(success),
        final_observation=final,
    )


def make_result(stage, step, env, rate, *, tasks=10, samples=4, digest="abc"):
    """A result whose first `rate` share of samples succeeds in every task."""
    correct = round(rate * samples)
    row = tuple(index < correct for index in range(samples))
    return results.EvaluationResult(
        stage=stage,
        after_iteration=8,
        step=step,
        env=env,
        split="test",
        tier="all",
        panel_version=f"{env}-1",
        panel_digest=digest,
        item_ids=tuple(f"{env}_{index}" for index in range(tasks)),
        success=(row,) * tasks,
        score=(tuple(map(float, row)),) * tasks,
        turns=((3,) * samples,) * tasks,
        tokens=((30,) * samples,) * tasks,
    )


def with_success(result, rows):
    """The result with other tasks, given by the success of their samples; None is lost."""
    rows = tuple(tuple(None if x is None else bool(x) for x in row) for row in rows)
    table = tuple(tuple(None if x is None else 0 for x in row) for row in rows)
    return dataclasses.replace(
        result,
        item_ids=tuple(f"textcraft_{i}" for i in range(len(rows))),
        success=rows,
        score=table,
        turns=table,
        tokens=table,
    )


def write_iterations(workdir, settings, *, first=0, last=None):
    """Records iterations `first` to `last` of the run, counted over all stages."""
    places = [
        (index, stage, iteration)
        for index, stage in enumerate(settings.stages)
        for iteration in range(stage.num_iterations)
    ]
    with metrics.Writer(workdir, settings, clock=lambda: 1.5e9) as writer:
        for step, (index, stage, iteration) in enumerate(places):
            if not first <= step < (len(places) if last is None else last):
                continue
            progress = types.Progress(
                stage=index, stage_name=stage.name, iteration=iteration + 1
            )
            values, trajectories = make_iteration(stage, step)
            writer.write(
                progress, step=step + 1, values=values, trajectories=trajectories
            )


def make_iteration(stage, step):
    values = {
        "policy/loss": 2.0 / (step + 1),
        "policy/entropy": 1.5 - 0.05 * step,
        "optimizer/grad_norm": 1.0 / (step + 2),
        "time/total": 2.0,
        "time/rollout": 1.25,
        "time/update": 0.5,
        "perf/compilations": 0,
    }
    if stage.supervised:
        return values, ()
    trajectories = [
        make_trajectory(env, item=group, group=group, sample=sample,
                        success=(step + 3 * sample + group) % 4 < 2)
        for group, (env, _) in enumerate(stage.mixture.environments)
        for sample in range(4)
    ]  # fmt: skip
    values |= metrics.summarize_trajectories(trajectories)
    values |= {
        "policy/first_logprob_mismatch": 1e-7,
        "perf/decode_tokens_per_second": 1000.0,
    }
    return values, trajectories


def write_run(workdir, settings=None):
    """Writes everything but checkpoints."""
    settings = settings or make_settings()
    workdir.mkdir(parents=True, exist_ok=True)
    described = json.dumps(files.describe_run(settings))
    (workdir / files.RUN_FILE).write_text(described)
    write_iterations(workdir, settings)
    rates = {"warm": (0.25, 0.25), "textcraft": (0.75, 0.25), "both": (0.5, 1.0)}
    for step, (stage, by_env) in enumerate(rates.items()):
        for env, rate in zip(ENVIRONMENTS, by_env, strict=True):
            make_result(stage, 8 * (step + 1), env, rate).save(workdir)
    return settings
