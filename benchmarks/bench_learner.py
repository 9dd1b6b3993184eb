r"""Speed and memory of the learner, alone and beside torch.

  python -m benchmarks.bench_learner                       # ours alone
  python -m benchmarks.bench_learner --peer_python=torch=.venv/bin/python
  python -m benchmarks.bench_learner --parts=packing,memory
  python -m benchmarks.bench_learner --parts=hosts

Parts:
  packing  padding of rows that hold real oracle episodes of TextCraft and BabyAI.
  speed    one GRPO update on packed TextCraft episodes: forward, backward, clipping and
           AdamW, float32, the same rows for every variant. `all columns` is ours with
           logits of every token instead of those of actions, `bfloat16` with activations
           in that type.
  memory   temporary memory of the compiled update by vocabulary: bytes that another
           token position costs. What holds a gradient of the embedding is left out.

  hosts    packing of many long made-up episodes, as one host of several does it, which
           places all of them and writes the rows of its own devices; one host first. Only
           if asked for: 4.5 GiB of memory.

Variants of `speed` run in turn, round after round, and lines give medians: of tokens per
second of wall clock, per second of CPU time, and of the ratio to the first line of the same
round. Each runs twice in its turn, and the second counts. Compilation comes before the
first round. Weights are random.
"""

import dataclasses
import functools
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich import console as rich_console
from rich import table

from agentrl import config, types
from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, demonstrations, pool, tasks
from agentrl.hardware import roofline
from agentrl.learner import algorithms, optimizer, packing, update
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding, startup
from agentrl.supervised import warmstart
from benchmarks.peers import link

_PARTS = flags.DEFINE_list("parts", ["packing", "speed", "memory"], "What to measure.")
_MODELS = flags.DEFINE_list("models", ["d256", "smollm2"], "Shapes for part speed.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of part speed.")
_PEER = flags.DEFINE_list("peer_python", [], "torch=INTERPRETER, to run beside.")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 2, "Devices that our learner splits a CPU into, a power of 2."
)

MODELS = {
    "d256": model_config.ModelConfig(
        vocab_size=4096, hidden_size=256, num_layers=6, num_heads=8, num_kv_heads=4,
        head_dim=32, mlp_size=768,
    ),  # 5.5 M parameters
    "smollm2": model_config.ModelConfig(
        vocab_size=49152, hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3,
        head_dim=64, mlp_size=1536,
    ),  # SmolLM2-135M, with Qwen2's biases
}  # fmt: skip
ROWS = {"d256": 8, "smollm2": 2}  # of ROW_TOKENS, one microbatch
ROW_TOKENS, CHUNK = 512, 1024
ROW_LENGTHS = (512, 1024, 2048)  # of part packing
ENVIRONMENTS = {
    "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=16),
    "babyai": base.EnvConfig(list_actions="never", max_turns=16),
}


def collect_episodes(env: str, count: int) -> list[types.Trajectory]:
    """Oracle episodes in a vocabulary of 512 pieces trained on them."""
    panel = tasks.select_tasks(env, "train", ENVIRONMENTS[env], limit=count)
    with pool.EnvPool(ENVIRONMENTS, num_workers=2) as envs:
        solved = demonstrations.collect(envs, env, panel.item_ids[:40])
        corpus = demonstrations.texts(solved)
        trained = tokenizer.SentencePieceTokenizer.train(corpus, 512)
        return warmstart.collect_demonstrations(
            {env: panel},
            envs,
            config.Supervised(demonstrations=count, thoughts=True),
            renderer.Chat(trained, "bare"),
            max_tokens=ROW_TOKENS,
        )


def pack(
    episodes: list[types.Trajectory],
    num_rows: int,
    max_microbatches: int,
    row_tokens: int = ROW_TOKENS,
):
    """One batch of the episodes, with advantages of both signs, and its report."""
    signals = [
        types.Signal(advantages=float((-1) ** index), rl_weights=1.0)
        for index in range(len(episodes))
    ]
    (batch,), report = packing.pack(
        episodes,
        signals,
        learner_config=config.LearnerConfig(
            row_tokens=row_tokens,
            rows_per_microbatch=num_rows,
            max_microbatches=max_microbatches,
        ),
        num_batches=1,
        seed=0,
    )
    return batch, report


def measure_packing(console: rich_console.Console) -> None:
    """Padding of up to 256 episodes of each environment, packed and one to a row."""
    headings = [f"rows of {n}" for n in ROW_LENGTHS]
    lines = table.Table("environment", "episodes", "tokens", *headings, "one to a row")
    for env in ENVIRONMENTS:
        episodes = collect_episodes(env, 256)
        reports = [pack(episodes, 8, len(episodes), n)[1] for n in ROW_LENGTHS]
        tokens = reports[0].num_tokens
        longest = max(e.num_tokens for e in episodes)
        lines.add_row(
            env,
            f"{len(episodes)}",
            f"{tokens:,}",
            *(f"{report.padding_fraction:.1%}" for report in reports),
            f"{1 - tokens / (len(episodes) * longest):.1%}",
        )
    console.print(lines)


class Update:
    """The compiled learner step around random weights."""

    def __init__(self, shape: model_config.ModelConfig, *, all_columns: bool = False):
        self.model = transformer.Model(shape)
        self._mesh = sharding.make_mesh(config.MeshConfig())
        optimize = optimizer.make_optimizer(
            config.OptimizerConfig(learning_rate=1e-5), total_steps=10**6
        )
        forward = update.make_forward(
            functools.partial(
                self.model.hidden,
                constrain=functools.partial(sharding.constrain_rows, mesh=self._mesh),
            ),
            self.model.unembedding,
            chunk=CHUNK,
            temperature=1.0,
        )
        if all_columns:
            forward = _on_all_columns(forward)
        stage = config.StageConfig(
            name="bench",
            mixture=config.MixtureConfig(environments=(("textcraft", 1.0),)),
            num_iterations=1,
        )
        step = functools.partial(
            update.train_step,
            forward=forward,
            objective=algorithms.resolve(stage).objective,
            optimizer=optimize,
        )
        self._init = lambda key: self._start(key, optimize)
        self.step = jax.jit(
            lambda state, batch: step(state, {}, batch, None), donate_argnums=0
        )

    def _start(self, key: jax.Array, optimize: Any) -> types.TrainState:
        params = self.model.init(key)
        return types.TrainState(jnp.int32(0), params, optimize.init(params))

    def start(self, batch: types.TrainBatch) -> None:
        """Compiles, and applies a first update."""
        self._batch = sharding.to_global(batch, self._mesh)
        whole = sharding.replicated(self._mesh)
        self._state = jax.jit(self._init, out_shardings=whole)(jax.random.key(0))
        self.run()

    def run(self) -> dict[str, float]:
        """Wall and CPU seconds of one update."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._state, metrics = self.step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def temporary_bytes(self, num_rows: int, num_columns: int) -> int:
        """Memory that the compiled update takes beside its arguments and results."""
        shape = (1, num_rows, num_columns)
        integers, floats = jnp.empty(shape, jnp.int32), jnp.empty(shape, jnp.float32)
        batch = types.TrainBatch(
            tokens=integers,
            segment_ids=integers,
            positions=integers,
            behavior_logprobs=floats,
            advantages=floats,
            rl_weights=floats,
        )
        state = jax.eval_shape(self._init, jax.random.key(0))
        compiled = self.step.lower(state, batch).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes


def _on_all_columns(forward: update.ForwardFn) -> update.ForwardFn:
    def forward_all(
        params: types.Params, rows: types.TrainBatch
    ) -> update.TokenOutputs:
        everything = jnp.ones(rows.tokens.shape, jnp.float32)
        return forward(params, dataclasses.replace(rows, rl_weights=everything))

    return forward_all


def measure_speed(console: rich_console.Console, peers: Mapping[str, str]) -> None:
    """Rounds of updates of all variants."""
    episodes = collect_episodes("textcraft", 100)
    for name in _MODELS.value:
        shape, batch, report = MODELS[name], *fill(episodes, ROWS[name])
        variants: dict[str, Callable[[], dict[str, float]]] = {}
        compile_seconds: dict[str, float] = {}
        half = model_config.Precision(compute="bfloat16")
        for variant, measured in {
            "agentrl": Update(shape),
            "all columns": Update(shape, all_columns=True),
            "bfloat16": Update(dataclasses.replace(shape, precision=half)),
        }.items():
            started = time.perf_counter()
            measured.start(batch)
            compile_seconds[variant] = time.perf_counter() - started
            variants[variant] = measured.run
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "batch.npz"
            fields = {k: v[0] for k, v in vars(batch).items() if v is not None}
            np.savez(path, **fields)
            for peer, python in peers.items():
                spec = {"model": dataclasses.asdict(shape), "batch": str(path)}
                other = link.Peer(
                    f"{peer}_learner", python, spec, pathlib.Path(folder) / "log"
                )
                variants[peer], compile_seconds[peer] = other.run, other.compile_seconds
            rounds = [
                {variant: _run_warm(run) for variant, run in variants.items()}
                for _ in range(_ROUNDS.value)
            ]
        lines = table.Table("variant", "tok/s", "tok/CPU s", "ratio", "ready after")
        for variant in variants:
            wall = np.median([r[variant]["wall"] for r in rounds])
            cpu = np.median([r[variant]["cpu"] for r in rounds])
            ratio = np.median(
                [r[variant]["wall"] / r["agentrl"]["wall"] for r in rounds]
            )
            lines.add_row(
                variant,
                f"{report.num_tokens / wall:,.0f}",
                f"{report.num_tokens / cpu:,.0f}",
                f"{1 / ratio:.2f}",
                f"{compile_seconds[variant]:.1f} s",
            )
        flops = roofline.train_flops(
            shape, report.num_tokens, report.num_action_tokens, report.attention_pairs
        )
        peak = roofline.measure_flops()
        lines.caption = (
            f"{report.num_tokens:,} tokens, {report.num_action_tokens:,} of actions, "
            f"{report.padding_fraction:.1%} padding; floor "
            f"{flops / 1e9:,.0f} GFLOP / {peak / 1e9:,.0f} GFLOP/s = {flops / peak:.2f} s "
            f"or {report.num_tokens * peak / flops:,.0f} tok/s"
        )
        lines.title = f"one update, {name}"
        console.print(lines)


def _run_warm(run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Runs twice, and counts the second: memory that lay idle may be gone."""
    run()
    return run()


def fill(episodes: list[types.Trajectory], num_rows: int):
    """As many of the episodes as fill `num_rows` rows, packed."""
    count = len(episodes)
    while True:
        batch, report = pack(episodes[:count], num_rows, count)
        if report.num_rows <= num_rows:
            return jax.tree.map(lambda x: x[:1], batch), report
        count -= 1


def measure_memory(console: rich_console.Console) -> None:
    """Bytes per token position at three vocabularies."""
    lines = table.Table("vocabulary", "bytes per position", "one row of logits")
    for vocab in (8192, 32768, 131072):
        update = Update(dataclasses.replace(MODELS["d256"], vocab_size=vocab))
        small, large = (update.temporary_bytes(rows, ROW_TOKENS) for rows in (4, 12))
        per_position = (large - small) / (8 * ROW_TOKENS / jax.device_count())
        lines.add_row(f"{vocab:,}", f"{per_position:,.0f}", f"{4 * vocab:,}")
    console.print(lines)


def measure_hosts(console: rich_console.Console) -> None:
    """Seconds of packing 16,384 episodes in rows of 8,192 tokens, by number of hosts."""
    draw = np.random.default_rng(0)
    episodes = [make_episode(int(n)) for n in draw.integers(2000, 8000, 16384)]
    signals = [types.Signal(advantages=1.0, rl_weights=1.0)] * len(episodes)
    num_rows = 2048
    settings = config.LearnerConfig(
        row_tokens=8192,
        rows_per_microbatch=num_rows,
        max_microbatches=len(episodes) // num_rows,
    )
    lines = table.Table("hosts", "tokens", "seconds, median of 3")
    for num_hosts in (1, 16, 128):
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            _, report = packing.pack(
                episodes,
                signals,
                learner_config=settings,
                num_batches=1,
                seed=0,
                local_rows=range(num_rows // num_hosts),
            )
            seconds.append(time.perf_counter() - started)
        lines.add_row(
            f"{num_hosts}", f"{report.num_tokens:,}", f"{np.median(seconds):.2f}"
        )
    console.print(lines)


def make_episode(num_tokens: int) -> types.Trajectory:
    """A solved episode of eight turns with 64 action tokens each."""
    observed, acted = np.ones(num_tokens // 8 - 64, np.int32), np.ones(64, np.int32)
    turn = types.Turn(observed, acted, np.zeros(64, np.float32), "", "", 0.0, True)
    return types.Trajectory(
        task=types.Task("textcraft", "textcraft_0", group=0, sample=0),
        turns=(turn,) * 8,
        ending=types.Ending.SOLVED,
        policy_step=0,
        success=True,
        score=1.0,
    )


def main(argv: list[str]) -> None:
    """Runs the chosen parts."""
    del argv
    startup.prepare_cpu(config.MeshConfig(cpu_devices=_CPU_DEVICES.value))
    console = rich_console.Console()
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    console.print(
        f"{os.cpu_count()} cores, {_CPU_DEVICES.value} devices, {platform.platform()}, "
        f"{versions}"
    )
    if "packing" in _PARTS.value:
        measure_packing(console)
    if "speed" in _PARTS.value:
        measure_speed(console, dict(entry.split("=", 1) for entry in _PEER.value))
    if "memory" in _PARTS.value:
        measure_memory(console)
    if "hosts" in _PARTS.value:
        measure_hosts(console)


if __name__ == "__main__":
    app.run(main)
