r"""A whole GRPO iteration on TextCraft, alone and beside other trainers.

  python -m benchmarks.bench_iteration
  python -m benchmarks.bench_iteration \
    --peer_python=trl=/path/to/trl/bin/python,tunix=/path/to/tunix/bin/python

A model of 0.9 M parameters is warm-started on demonstrations, because an untrained one
never finishes a turn. All trainers then start from its weights and play the real
environment: draw tasks, play 8 groups of 8 episodes, apply one update; float32. Trainers
run in turn, round after round; lines give medians, and of the ratio of tokens per second to
the first line of the same round. What comes before the first round is not in it.
"""

import dataclasses
import json
import os
import pathlib
import platform
import tempfile
import time
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich import console as rich_console
from rich import table

from agentrl import actor, config, loop
from agentrl.checkpoints import checkpoint
from agentrl.envs import base
from agentrl.hardware import timing
from agentrl.models import model_config
from agentrl.parallel import startup
from agentrl.pending import experiences
from agentrl.reporting import metrics
from agentrl.run import assemble, references, stages
from benchmarks.peers import link

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds.")
_WARM_START = flags.DEFINE_integer("warm_start", 120, "Supervised steps before.")
_PEER = flags.DEFINE_list(
    "peer_python", [], "NAME=INTERPRETER of other systems: trl, tunix."
)

ENV = base.EnvConfig(options={"distractors": 0}, max_turns=8)
ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=8,
    group_size=8,
    max_tokens=384,
    max_action_tokens=26,
    num_slots=64,
    append_buckets=(32, 128, 256),
    cache_buckets=(128, 192, 256, 384),
    row_buckets=(16,),
)
LEARNING_RATE = 1e-5
VOCABULARY = 640  # of tokenizer and model: peers know no ids that are never sampled
OPENING = 128  # tokens of the longest first context, rounded up


def make_settings() -> config.RunConfig:
    """A warm start and a stage of GRPO, on easy tasks of TextCraft."""
    mixture = config.MixtureConfig(environments=(("textcraft", 1.0),), tier="easy")
    return config.RunConfig(
        name="bench_iteration",
        environments={"textcraft": ENV},
        model=model_config.ModelConfig(
            vocab_size=VOCABULARY, num_layers=3, mlp_size=512, tied_embeddings=False
        ),
        tokenizer=config.TokenizerConfig(vocab_size=VOCABULARY),
        mesh=config.MeshConfig(cpu_devices=2),
        learner=config.LearnerConfig(
            row_tokens=384, rows_per_microbatch=8, max_microbatches=16
        ),
        stages=(
            config.StageConfig(
                name="warm_start",
                mixture=mixture,
                num_iterations=_WARM_START.value,
                rollout=ROLLOUT,
                optimizer=config.OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
                algorithm=config.Supervised(
                    demonstrations=150, episodes_per_step=40, thoughts=False
                ),
            ),
            config.StageConfig(
                name="grpo",
                mixture=mixture,
                num_iterations=10**6,
                rollout=ROLLOUT,
                algorithm=config.Dapo(),
                optimizer=config.OptimizerConfig(learning_rate=LEARNING_RATE),
            ),
        ),
    )


class Trainer:
    """Our loop, one iteration at a time."""

    def __init__(self, run: assemble.Run, recorder: loop.Recorder):
        self._run, self._recorder, self._iteration = run, recorder, 0
        first = stages.build(run, 0)
        state = first.initial_state(run, run.parameters.init(), jnp.int32(0))
        for iteration in range(first.settings.num_iterations):
            state, _ = loop.supervised_iteration(run, first, state, iteration, recorder)
        self._stage = stages.build(run, 1)
        self._state = self._stage.init_from_previous(run, state)
        recorder.timers.pop()

    @property
    def items(self) -> list[str]:
        """The tasks that are drawn from."""
        return list(self._stage.panels["textcraft"].item_ids)

    def save_weights(self, path: pathlib.Path) -> None:
        """Writes the parameters, by their path in the tree."""
        leaves, _ = jax.tree.flatten_with_path(
            jax.device_get(self._state.learner.params)
        )
        names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
        np.savez(path, **dict(zip(names, (leaf for _, leaf in leaves), strict=True)))

    def run(self) -> dict[str, float]:
        """One iteration: what it cost, and how much was played."""
        run, stage, state = self._run, self._stage, self._state
        wall, cpu = time.perf_counter(), time.process_time()
        played_ahead = actor.play(
            run,
            stage,
            state,
            self._iteration,
            experiences.Ahead(),
            self._recorder.timers,
        )
        self._state, _, _ = loop.rl_iteration(
            run,
            stage,
            state,
            played_ahead,
            references.References(),
            self._recorder,
            at_end=True,
        )
        jax.block_until_ready(self._state)
        self._iteration += 1
        assert played_ahead.experience is not None
        played = played_ahead.experience.trajectories
        return {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "tokens": sum(t.num_tokens for t in played),
            "action_tokens": sum(t.num_action_tokens for t in played),
            "turns": sum(len(t.turns) for t in played),
        } | self._recorder.timers.pop()


def start_peers(
    trainer: Trainer, settings: config.RunConfig, folder: pathlib.Path
) -> dict[str, link.Peer]:
    """The other trainers, with our weights, tasks and limits."""
    trainer.save_weights(folder / "weights.npz")
    spec = {
        "model": dataclasses.asdict(settings.model),
        "weights": str(folder / "weights.npz"),
        "tokenizer": str(folder),
        "frame": settings.tokenizer.frame,
        "folder": str(folder),
        "items": trainer.items,
        "env_config": {
            k: v for k, v in dataclasses.asdict(ENV).items() if json.dumps(v)
        },
        "groups": ROLLOUT.tasks_per_iteration,
        "group_size": ROLLOUT.group_size,
        "max_tokens": ROLLOUT.max_tokens,
        "max_action_tokens": ROLLOUT.max_action_tokens,
        "opening": OPENING,
        "microbatches": 2,
        "learning_rate": LEARNING_RATE,
    }
    return {
        name: link.Peer(f"{name}_iteration", python, spec, folder / f"{name}.log")
        for name, python in (entry.split("=", 1) for entry in _PEER.value)
    }


def measure(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Rounds of iterations of all trainers, after one that is not counted."""
    settings = make_settings()
    startup.prepare_cpu(settings.mesh)
    with (
        assemble.assemble(settings, folder) as run,
        checkpoint.Checkpoints(folder) as checkpoints,
        metrics.Writer(folder, settings, decode=run.chat.tokenizer.decode) as writer,
    ):
        recorder = loop.Recorder(
            workdir=folder,
            checkpoints=checkpoints,
            writer=writer,
            timers=timing.Timers(),
            compilations=timing.CompilationCounter(),
            peak_flops=1.0,  # nothing is reported of it
        )
        trainer = Trainer(run, recorder)
        variants = {"agentrl": trainer.run}
        variants |= {
            k: p.run for k, p in start_peers(trainer, settings, folder).items()
        }
        for one_round in variants.values():
            one_round()
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
        for _ in range(_ROUNDS.value):
            for name, one_round in variants.items():
                found[name].append(one_round())
    return found


def main(argv: list[str]) -> None:
    """Measures and prints one table."""
    del argv
    console = rich_console.Console()
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    console.print(f"{os.cpu_count()} cores, {platform.platform()}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(pathlib.Path(folder))
    lines = table.Table(
        "trainer", "s", "tokens", "tok/s", "tok/CPU s", "ratio", "turns", "rollout s"
    )
    for name, rounds in found.items():
        rates = [r["tokens"] / r["wall"] for r in rounds]
        first = [r["tokens"] / r["wall"] for r in found["agentrl"]]
        lines.add_row(
            name,
            f"{np.median([r['wall'] for r in rounds]):.2f}",
            f"{np.median([r['tokens'] for r in rounds]):,.0f}",
            f"{np.median(rates):,.0f}",
            f"{np.median([r['tokens'] / r['cpu'] for r in rounds]):,.0f}",
            f"{np.median(np.divide(rates, first)):.2f}",
            f"{np.median([r['turns'] for r in rounds]):,.0f}",
            f"{np.median([r.get('time/rollout', np.nan) for r in rounds]):.2f}",
        )
    console.print(lines)


if __name__ == "__main__":
    app.run(main)
