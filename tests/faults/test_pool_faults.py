"""Environments that raise and hang, workers that die: all episodes are accounted for.

`python -m benchmarks.bench_envs --faults` is the same at full size.
"""

import importlib
import pathlib

import pytest

from agentrl.envs import base, pool, registry

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setitem(registry._MODULES, "faulty", "faulty_env")
    monkeypatch.setenv("AGENTRL_ENVS", "faulty=faulty_env")
    return importlib.import_module("faulty_env")


def test_every_episode_is_accounted_for(faulty):
    num_episodes = 300
    configs = {"faulty": base.EnvConfig()}
    with pool.EnvPool(configs, num_workers=2, call_timeout_s=0.5) as envs:
        saboteur = faulty.Saboteur(envs, period_s=0.7)
        saboteur.start()
        books = faulty.play_all(envs, range(num_episodes), num_slots=16)
        saboteur.stop()
        counters = envs.counters

    assert sorted(books.fates) == list(range(num_episodes))
    assert all(books.counts[fate] > 0 for fate in ("finished", "raised", "timed_out"))
    assert counters.resets == num_episodes
    assert counters.errors == num_episodes - books.counts["finished"]
    assert counters.timeouts == books.counts["timed_out"] <= counters.respawns
    assert saboteur.kills > 0


def test_exceptions_alone_cost_no_other_episode(faulty):
    fates = {k: faulty.get_fate(k) for k in range(300)}
    fates = {k: fate for k, fate in fates.items() if fate != "timed_out"}
    configs = {"faulty": base.EnvConfig()}
    with pool.EnvPool(configs, num_workers=2) as envs:
        books = faulty.play_all(envs, fates, num_slots=16)

    assert books.fates == fates
    assert books.counts["raised"] > 0
    assert envs.counters.respawns == envs.counters.lost == 0
