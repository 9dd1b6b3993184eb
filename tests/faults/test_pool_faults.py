"""Environments that misbehave in every way: each episode ends as it has to.

`python -m benchmarks.bench_envs --faults` is the same at full size.
"""

import importlib
import pathlib

import pytest

from agentrl.envs import base, faults, pool, registry

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = {"faulty": base.EnvConfig()}


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setitem(registry._MODULES, "faulty", "faulty_env")
    monkeypatch.setenv("AGENTRL_ENVS", "faulty=faulty_env")
    module = importlib.import_module("faulty_env")
    monkeypatch.setenv(module.HANG_FOLDER, str(tmp_path))
    return module


def choose_episodes(faulty, count, per_fault):
    """The first `count` episodes, and the first `per_fault` of each kind of fault."""
    chosen = set(range(count))
    for fault in faulty.FAULTS:
        steps = ((k, turn) for k in range(10_000) for turn in range(faulty.TURNS))
        found = dict.fromkeys(
            k for k, turn in steps if fault == reached(faulty, k, turn)
        )
        chosen |= set(list(found)[:per_fault])
    return sorted(chosen)


def reached(faulty, index, turn):
    """The fault of a step, unless the episode has ended before."""
    earlier = [faulty.get_fault(index, t) for t in range(turn)]
    if any(f and faulty.FAULTS[f][1] != faulty.FINISHED for f in earlier):
        return None
    return faulty.get_fault(index, turn)


def test_every_episode_ends_as_it_has_to(faulty, tmp_path):
    indices = choose_episodes(faulty, 150, per_fault=3)
    with pool.EnvPool(
        CONFIGS, num_workers=2, worker_memory_bytes=faulty.MEMORY_LIMIT
    ) as envs:
        executioner = faulty.Executioner(envs, tmp_path)
        saboteur = faulty.Saboteur(envs, period_s=3.0)
        executioner.start()
        saboteur.start()
        books = faulty.play_all(envs, indices, num_slots=16)
        executioner.stop()
        saboteur.stop()

    assert books.fates == {k: faulty.get_fate(k) for k in indices}
    assert set(books.counts) == {fate for _, fate in faulty.FAULTS.values()}
    assert envs.counters.resets == len(indices)
    assert envs.counters.errors == len(indices) - books.counts[faulty.FINISHED]
    assert envs.counters.timeouts == books.counts[faults.Fault.TIMED_OUT]


def test_what_stays_within_an_episode_restarts_no_worker(faulty):
    harmless = (faulty.FINISHED, faults.Fault.RAISED, faults.Fault.INVALID)
    fates = {k: faulty.get_fate(k) for k in range(300)}
    fates = {k: fate for k, fate in fates.items() if fate in harmless}
    with pool.EnvPool(CONFIGS, num_workers=2) as envs:
        books = faulty.play_all(envs, fates, num_slots=16)

    assert books.fates == fates
    assert set(books.counts) == set(harmless)
    assert envs.counters.respawns == envs.counters.replays == 0
