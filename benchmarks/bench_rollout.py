r"""Speed of rollouts, alone and beside other systems.

  python -m benchmarks.bench_rollout                            # our engine alone
  python -m benchmarks.bench_rollout --parts=decode --models=smollm2
  python -m benchmarks.bench_rollout \
    --peer_python=tunix=/path/to/venv/bin/python,transformers=.venv/bin/python

Parts:
  decode   64 rows decode 64 tokens after a context of 256; prefill is not in it.
  turns    64 episodes of 8 turns in 64 slots; environments cost nothing. Beside it the
           engine alone: the same turns without environments, text and trajectories.
  partial  Iterations of 64 episodes of 2 to 16 turns in 64 slots, environments cost
           nothing: each waits for its last episode, or episodes go on in the next one.
  slow     512 episodes of 4 to 12 turns in 64 slots; each call takes 50 ms.
Variants run in turn, round after round, and lines give medians: of tokens per second of
wall clock, per second of CPU time, and of the ratio to the first line of the same round.
Compilation comes before the first round and is not in it. Weights are random, float32.
"""

import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from absl import app, flags
from rich import console as rich_console
from rich import table

from agentrl import config
from agentrl.engine import engine
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding, startup
from agentrl.rollout import collect, partial
from benchmarks import scripted
from benchmarks.peers import link

_PARTS = flags.DEFINE_list(
    "parts", ["decode", "turns", "partial", "slow"], "What to measure."
)
_MODELS = flags.DEFINE_list("models", ["tiny", "smollm2"], "Shapes for part decode.")
_PEERS = flags.DEFINE_list(
    "peer_python", [], "NAME=INTERPRETER of other systems: tunix, transformers."
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of each part.")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 2, "Devices that our engine splits a CPU into, a power of 2."
)

MODELS = {
    "tiny": model_config.ModelConfig(  # 1.0 M parameters
        vocab_size=1024, num_layers=3, mlp_size=512, tied_embeddings=False
    ),
    "smollm2": model_config.ModelConfig(  # SmolLM2-135M, with Qwen2's biases
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        mlp_size=1536,
        rope_theta=100_000.0,
    ),
}
NUM_SLOTS, CONTEXT, NEW = 64, 256, 64
_ITERATIONS = 4  # of part partial
PEERS = {"tunix": "tunix_rollout", "transformers": "transformers_generate"}
Variants = Mapping[str, Callable[[], dict[str, float]]]
Part = tuple[str, Variants, Mapping[str, Callable[[], float]]]


def start_peers(names: Sequence[str], spec: Mapping) -> dict[str, link.Peer]:
    """Starts those of the named peers whose interpreter was given."""
    pythons = dict(entry.split("=", 1) for entry in _PEERS.value)
    folder = pathlib.Path(tempfile.mkdtemp())
    return {
        name: link.Peer(PEERS[name], pythons[name], dict(spec), folder / f"{name}.log")
        for name in names
        if name in pythons
    }


class MeasuredEngine:
    """Our engine for one model and one rollout configuration."""

    def __init__(
        self,
        model_name: str,
        settings: config.RolloutConfig,
        *,
        script: scripted.Script | None = None,
        reprefill: bool = False,
        env_seconds: float = 0.0,
    ):
        shape = MODELS[model_name]
        model = transformer.Model(shape)
        mesh = sharding.make_rollout_mesh(config.MeshConfig())
        self.key = jax.random.key(0)
        params = jax.jit(model.init)(self.key)
        self.params = jax.device_put(params, sharding.replicated(mesh))
        kwargs = {"stop_tokens": (-1,), "num_valid_tokens": shape.vocab_size}
        if script is None:
            self.engine = engine.Engine(model, mesh, settings, **kwargs)
        else:
            self.engine = scripted.ScriptedEngine(
                model, mesh, settings, script=script, reprefill=reprefill, **kwargs
            )
        started = time.perf_counter()
        self.engine.compile(self.params, self.key)
        self.compile_seconds = time.perf_counter() - started
        if script is not None:
            pool: Any = scripted.SimulatedPool(script, env_seconds)
            framed = scripted.make_chat(shape.vocab_size)
            self.collector = collect.Collector(self.engine, pool, framed)

    def play(self, tasks: Sequence, *, at_once: int = 0) -> dict[str, float]:
        """Plays all tasks, or rounds of `at_once`, each to its end."""
        step = at_once or len(tasks)
        waited = []

        def run() -> int:
            tokens = 0
            for first in range(0, len(tasks), step):
                _, cost = self.collector.collect(
                    self.params,
                    tasks[first : first + step],
                    key=self.key,
                    policy_step=0,
                )
                tokens += cost.decoded_tokens
                waited.append(cost.env_wait_seconds)
            return tokens

        found = scripted.clocked(run)
        return found | {"env_wait": sum(waited) / found["wall"]}


def decode_part(model_name: str) -> Part:
    """One cohort decodes; its context is written once and kept."""
    settings = config.RolloutConfig(
        num_slots=NUM_SLOTS,
        max_tokens=CONTEXT + NEW,
        max_action_tokens=NEW,
        append_buckets=(1, CONTEXT),
        cache_buckets=(CONTEXT + NEW,),
    )
    measured = MeasuredEngine(model_name, settings)
    cohort = measured.engine.new_cohort()

    def decode(tokens: Sequence[int], budget: int) -> int:
        inputs = {
            slot: engine.SlotInput(tokens, (0, slot), budget)
            for slot in range(NUM_SLOTS)
        }
        in_flight = measured.engine.dispatch(
            measured.params, cohort, inputs, measured.key
        )
        outputs = measured.engine.fetch(cohort, in_flight)
        return sum(len(output.tokens) for output in outputs.values())

    decode([1] * (CONTEXT - 1), 0)

    def run() -> dict[str, float]:
        cohort.lengths[:] = CONTEXT - 1
        return scripted.clocked(lambda: decode([1], NEW))

    spec = {
        "part": "decode",
        "model": vars(MODELS[model_name]),
        "rows": NUM_SLOTS,
        "context": CONTEXT,
        "new": NEW,
    }
    peers = start_peers(("tunix", "transformers"), spec)
    title = f"decode alone, {model_name}, 64 rows, context 256 to 320"
    return (
        title,
        {"agentrl": run} | {name: peer.run for name, peer in peers.items()},
        {"agentrl": lambda: measured.compile_seconds}
        | {name: lambda p=peer: p.compile_seconds for name, peer in peers.items()},
    )


def turns_part(model_name: str) -> Part:
    """Episodes of eight turns, with and without the memory of earlier turns."""
    script = scripted.Script()
    settings = config.RolloutConfig(
        num_slots=NUM_SLOTS,
        max_tokens=script.max_tokens,
        max_action_tokens=script.action[1],
        append_buckets=(24, 160),
        cache_buckets=(256, 384, script.max_tokens),
        row_buckets=(16,),
    )
    widths = (192, 288, 384, script.max_tokens)
    every_turn = config.RolloutConfig(
        **{
            **vars(settings),
            "append_buckets": widths,
            "cache_buckets": widths[1::2],
            "row_buckets": (),
        }
    )
    engines = {
        "agentrl": MeasuredEngine(model_name, settings, script=script),
        "agentrl, re-prefill each turn": MeasuredEngine(
            model_name, every_turn, script=script, reprefill=True
        ),
    }
    alone = engines["agentrl"]

    spec = {
        "part": "agentic",
        "model": vars(MODELS[model_name]),
        "opening": script.opening,
        "observation": script.observation,
        "mean_action": sum(script.action) // 2,
        "response": 448,  # tokens of an episode after its opening
        "turns": script.turns[1],
        "groups": 1,
        "group_size": 8,
    }
    peers = start_peers(("tunix",), spec)
    return (
        f"8-turn episodes, {model_name}, 64 slots, environments cost nothing",
        {"agentrl": lambda: play_episodes(alone)}
        | {"the engine alone": lambda: play_turns(alone, script)}
        | {
            name: lambda e=measured: play_episodes(e)
            for name, measured in engines.items()
        }
        | {name: peer.run for name, peer in peers.items()},
        {
            name: lambda e=measured: e.compile_seconds
            for name, measured in {
                "the engine alone": alone,
                **engines,
                **peers,
            }.items()
        },
    )


def play_episodes(measured: MeasuredEngine) -> dict[str, float]:
    """The episodes of `turns_part`, and how much slower their last turns are."""
    assert isinstance(measured.engine, scripted.ScriptedEngine)
    measured.engine.turns.clear()
    found = measured.play(scripted.make_tasks(NUM_SLOTS // 8, 8))
    rates = {
        turn: sum(n for n, _ in spent) / sum(s for _, s in spent)
        for turn, spent in measured.engine.turns.items()
    }
    return found | {"turn 8 / turn 2": rates[7] / rates[1]}


def play_turns(measured: MeasuredEngine, script: scripted.Script) -> dict[str, float]:
    """The turns of `turns_part`, dispatched one after the other with nothing between."""
    opening, further = [2] * script.opening, [3] * script.observation

    def run() -> int:
        cohort, count = measured.engine.new_cohort(), 0
        for turn in range(script.turns[1]):
            inputs = {
                slot: engine.SlotInput(
                    opening if turn == 0 else further,
                    (slot, turn),
                    script.action[1],
                    (script.opening - 1,) if turn == 0 else (),
                )
                for slot in range(NUM_SLOTS)
            }
            in_flight = measured.engine.dispatch(
                measured.params, cohort, inputs, measured.key
            )
            outputs = measured.engine.fetch(cohort, in_flight)
            count += sum(len(output.tokens) for output in outputs.values())
        return count

    measured.engine.invalidate_prefix_cache()
    return scripted.clocked(run)


def partial_part(model_name: str) -> Part:
    """Iterations that wait for their last episodes, and such that do not."""
    script, num_groups = scripted.Script(turns=(2, 16)), NUM_SLOTS // 8
    settings = config.RolloutConfig(
        num_slots=NUM_SLOTS,
        max_tokens=script.max_tokens,
        max_action_tokens=script.action[1],
        append_buckets=(24, 160),
        cache_buckets=(256, 448, script.max_tokens),
        row_buckets=(16,),
    )
    measured = MeasuredEngine(model_name, settings, script=script)

    def play(extra: int) -> dict[str, float]:
        cost, left = collect.Statistics(), partial.PartialRollout([], [])

        def run() -> int:
            nonlocal cost, left
            for iteration in range(_ITERATIONS):
                still_to_play = (_ITERATIONS - iteration) * num_groups
                wanted = min(num_groups + extra, still_to_play) - left.num_groups
                tasks = scripted.make_tasks(wanted, 8, first_group=left.num_drawn)
                _, left, spent = measured.collector.collect_groups(
                    measured.params,
                    tasks,
                    left,
                    partial.Target(num_groups, 8, oldest_step=iteration - 1),
                    key=measured.key,
                    policy_step=iteration,
                )
                cost += spent
            return cost.decoded_tokens

        found = scripted.clocked(run)
        return found | {"slots in use": cost.live_slot_turns / cost.slot_turns}

    return (
        f"{_ITERATIONS} iterations of 64 episodes, 2 to 16 turns, {model_name}, 64 slots",
        {
            f"{extra} extra groups": lambda n=extra: play(n)
            for extra in (0, num_groups // 2, num_groups)
        },
        {
            f"{extra} extra groups": lambda: measured.compile_seconds
            for extra in (0, num_groups // 2, num_groups)
        },
    )


def slow_part(model_name: str) -> Part:
    """Slow environments: cohorts and refilled slots against lockstep rounds."""
    script = scripted.Script(turns=(4, 12))
    tasks = scripted.make_tasks(64, 8)
    engines = {}
    for cohorts in (1, 2, 4):
        settings = config.RolloutConfig(
            num_slots=NUM_SLOTS,
            num_cohorts=cohorts,
            max_tokens=script.max_tokens,
            max_action_tokens=script.action[1],
            append_buckets=(24, 160),
            cache_buckets=(256, 384, script.max_tokens),
        )
        engines[cohorts] = MeasuredEngine(
            model_name, settings, script=script, env_seconds=0.05
        )
    variants = {"lockstep rounds": (engines[1], NUM_SLOTS)} | {
        f"agentrl, {n} cohort{'s' * (n > 1)}": (e, 0) for n, e in engines.items()
    }
    return (
        f"4 to 12 turns, {model_name}, 64 slots, 50 ms a call",
        {
            name: lambda e=measured, n=at_once: e.play(tasks, at_once=n)
            for name, (measured, at_once) in variants.items()
        },
        {
            name: lambda e=measured: e.compile_seconds
            for name, (measured, _) in variants.items()
        },
    )


def to_table(
    title: str, found: Mapping[str, list[dict[str, float]]], compiled: Mapping
) -> table.Table:
    """Medians of one part; ratios are to its first line, round by round."""
    out = table.Table(title)
    for column in ("tokens", "tokens/s", "ratio", "per CPU-s", "ratio", "compile s"):
        out.add_column(column, justify="right")
    out.add_column("more")
    reference = next(iter(found.values()))
    for name, rounds in found.items():
        cells = [name, f"{np.median([r['tokens'] for r in rounds]):,.0f}"]
        for clock in ("wall", "cpu"):
            rates = [r["tokens"] / r[clock] for r in rounds]
            first = [r["tokens"] / r[clock] for r in reference]
            ratio = np.median(np.divide(rates, first))
            cells += [f"{np.median(rates):,.0f}", f"{ratio:.2f}"]
        more = [
            f"{key} {np.median([r[key] for r in rounds]):.2f}"
            for key in rounds[0]
            if key not in ("tokens", "wall", "cpu")
        ]
        out.add_row(*cells, f"{compiled[name]():.1f}", ", ".join(more))
    return out


def main(argv: Sequence[str]) -> None:
    """Measures what the flags ask for and prints tables."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --parts?")
    startup.prepare_cpu(config.MeshConfig(cpu_devices=_CPU_DEVICES.value))
    out = rich_console.Console(width=140)
    out.print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
        f"jax {metadata.version('jax')}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{_CPU_DEVICES.value} devices, "
        f"GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')!r}"
    )
    parts = []
    if "decode" in _PARTS.value:
        parts += [(decode_part, name) for name in _MODELS.value]
    if "turns" in _PARTS.value:
        parts.append((turns_part, "tiny"))
    if "partial" in _PARTS.value:
        parts.append((partial_part, "tiny"))
    if "slow" in _PARTS.value:
        parts.append((slow_part, "tiny"))
    for prepare, model_name in parts:
        title, variants, compiled = prepare(model_name)
        found = scripted.time_rounds(variants, _ROUNDS.value)
        out.print(to_table(title, found, compiled))


if __name__ == "__main__":
    app.run(main)
