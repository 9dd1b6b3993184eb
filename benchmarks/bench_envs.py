r"""Speed and memory of the environments, and what the pool adds.

  python -m benchmarks.bench_envs                    # all that are installed
  python -m benchmarks.bench_envs --envs=textcraft,babyai --seconds=5
  python -m benchmarks.bench_envs --faults           # 10,000 episodes under sabotage

Steps are played from scripts that were written beforehand, resets included, in one
process: once in groups of 8 episodes of a task, as training plays them, and once with
another task after each episode. There are 300 training tasks, more than environments
keep worlds of. An oracle wrote one script for each task, and random choice of listed
actions, as a policy that knows nothing yet, eight different and longer ones. Rates are
per second of CPU time, so that other work on the machine does not count. Memory is what
Python allocates for each of 200 instances in play. The pool is measured by wall clock, on
an environment that does nothing.
"""

import itertools
import os
import platform
import random
import time
from collections.abc import Sequence

from absl import app, flags
from rich import console as rich_console
from rich import table

from benchmarks import faulty_env, trivial_env, walks
from envs import base, checks, episodes, pool, registry, tasks

_ENVS = flags.DEFINE_list("envs", [], "Environments to measure; by default all.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "CPU time per environment.")
_TASKS = flags.DEFINE_integer("tasks", 300, "Tasks that are played in turn.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Workers of the pool.")
_FAULTS = flags.DEFINE_bool("faults", False, "Run the fault test instead.")
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


def measure_steps(name: str, scripts: Scripts, group_size: int) -> tuple[float, float]:
    """Plays scripted episodes for some CPU time, `group_size` of a task in a row.

    Returns:
      Steps per CPU second, resets included; mean steps per episode.
    """
    env = registry.make(name, base.EnvConfig())
    groups = itertools.cycle(scripts.items())
    steps = num_episodes = 0
    start = time.process_time()
    while (elapsed := time.process_time() - start) < _SECONDS.value:
        item_id, written = next(groups)
        for script in itertools.islice(itertools.cycle(written), group_size):
            steps += len(episodes.play_script(env, item_id, script)) - 1
        num_episodes += group_size
    return steps / elapsed, steps / num_episodes


def environments_table(names: Sequence[str]) -> table.Table:
    """Measures environments; one that lacks data or programs gets a line saying so."""
    out = table.Table(
        "environment", "player", title="Steps/s on one core, resets included"
    )
    for column in ("groups of 8", "single", "steps per episode", "kB per instance"):
        out.add_column(column, justify="right")
    for name in names:
        try:
            played = {player: record(name) for player, record in _PLAYERS.items()}
        except base.MissingDataError as error:
            out.add_row(name, f"left out: {str(error)[:60]}")
            continue
        kilobytes = checks.measure_instance_bytes(name, base.EnvConfig()) / 1e3
        for player, scripts in played.items():
            if not scripts:
                continue
            rates, lengths = zip(
                *(measure_steps(name, scripts, size) for size in _GROUP_SIZES),
                strict=True,
            )
            cells = [f"{rate:,.0f}" for rate in rates]
            out.add_row(name, player, *cells, f"{lengths[0]:.1f}", f"{kilobytes:.1f}")
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
    rate, _ = measure_steps("trivial", record_oracle("trivial"), 1)
    out.add_row("no pool", f"{rate:,.0f}", f"{1e6 / rate:.1f}", "")
    for num_slots in (8, 64, 256):
        rate, ready = measure_pool(num_slots, _WORKERS.value, _SECONDS.value)
        out.add_row(str(num_slots), f"{rate:,.0f}", f"{1e6 / rate:.1f}", f"{ready:.2f}")
    return out


def faults_table(num_episodes: int) -> table.Table:
    """Plays under sabotage and lists how the episodes ended."""
    registry.register("faulty", "benchmarks.faulty_env")
    start = time.perf_counter()
    configs = {"faulty": base.EnvConfig()}
    with pool.EnvPool(configs, num_workers=_WORKERS.value, call_timeout_s=0.2) as envs:
        saboteur = faulty_env.Saboteur(envs, period_s=1.0)
        saboteur.start()
        books = faulty_env.play_all(envs, range(num_episodes), num_slots=16)
        saboteur.stop()
    elapsed = time.perf_counter() - start
    possible = sum(faulty_env.get_fate(k) == "finished" for k in range(num_episodes))
    out = table.Table("5 % raise, 1 % hang, a kill a second", "")
    rows = {
        "episodes": num_episodes,
        "accounted for": len(books.fates),
        "finished, all results right": books.counts["finished"],
        "could have finished": possible,
        "raised": books.counts["raised"],
        "timed out": books.counts["timed_out"],
        "lost with a worker": books.counts["lost"],
        "kills from outside": saboteur.kills,
        "workers started again": envs.counters.respawns,
    }
    for label, count in rows.items():
        out.add_row(label, f"{count:,}")
    out.add_row("seconds", f"{elapsed:.0f}")
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
