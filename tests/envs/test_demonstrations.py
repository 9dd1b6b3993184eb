"""Demonstrations: as the pool plays them, and under other names."""

import dataclasses
import pathlib
import re

import pytest

from agentrl.envs import (
    base,
    demonstrations,
    episodes,
    faults,
    pool,
    registry,
    tasks,
)

CONFIG = base.EnvConfig(options={"distractors": 0})


@pytest.fixture(scope="module")
def solved():
    ids = tasks.select_tasks("textcraft", "train", CONFIG, tier="easy").item_ids
    with pool.EnvPool({"textcraft": CONFIG}, num_workers=2) as envs:
        return demonstrations.collect(envs, "textcraft", ids[:60], thoughts=False)


def play_here(item_id, thoughts):
    """A demonstration played in this process, turn by turn."""
    env = registry.make("textcraft", CONFIG)
    observation = env.reset(item_id)
    oracle = episodes.make_oracle(env, "observational")
    exchanges = []
    while True:
        answer = oracle.act(observation)
        answer = answer if thoughts else answer[answer.index("Action:") :]
        exchanges.append((observation, answer))
        result = env.step(answer)
        if result.done:
            assert result.info.success
            return demonstrations.Demonstration(item_id, env.instruction, exchanges)
        observation = result.observation


def test_the_pool_plays_what_one_process_would(solved):
    assert solved == [play_here(d.item_id, thoughts=False) for d in solved]


def words(demonstration):
    return [re.findall(r"[a-z]+", t) for e in demonstration.exchanges for t in e]


def test_each_name_becomes_one_other_everywhere(solved):
    changed = 0
    for before, after in zip(solved, demonstrations.rename(solved), strict=True):
        assert (before.item_id, before.instruction) == after[:2]
        table = {}
        for old, new in zip(words(before), words(after), strict=True):
            for first, second in zip(old, new, strict=True):
                assert table.setdefault(first, second) == second
        assert all(table[w] == w for w in ("craft", "using", "goal") if w in table)
        changed += before != after
    assert changed > 0.9 * len(solved)


def test_some_names_are_of_no_demonstration(solved):
    known = {w for d in solved for text in words(d) for w in text}
    renamed = demonstrations.rename(solved)
    new = {w for d in renamed for text in words(d) for w in text} - known
    assert len(new) > 20


def test_draws_differ_and_repeat(solved):
    first, second = (demonstrations.rename(solved, draw) for draw in (0, 1))
    assert first != second
    assert first == demonstrations.rename(solved, 0)


def test_names_with_capitals_and_digits_are_renamed_on_demand():
    shown = [
        demonstrations.Demonstration(
            f"shop_{n}", "", [(f"Buy {name} or wait", f"click[{name}]")]
        )
        for n, name in enumerate(("B0AX9", "K77Z", "4040", "QR2T"))
    ]
    assert demonstrations.rename(shown, 1) == shown
    renamed = demonstrations.rename(shown, 1, spellings="all")
    for after in renamed:
        seen, said = after.exchanges[0]
        assert seen == f"Buy {said[6:-1]} or wait"
    assert sum(a != b for a, b in zip(renamed, shown, strict=True)) >= 2


# Environments that fail their oracles. Tasks of `frail_env` do what their number says.


@pytest.fixture(scope="module")
def frail():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pathlib.Path(__file__).parent))
        patch.setitem(registry._MODULES, "frail", "frail_env")
        patch.setenv("AGENTRL_ENVS", "frail=frail_env")
        with pool.EnvPool({"frail": base.EnvConfig()}, num_workers=2) as envs:
            yield envs


def collect(envs, *tasks, limit=1.0):
    ids = [f"frail_{number}" for number in tasks]
    found = demonstrations.collect(envs, "frail", ids, max_error_fraction=limit)
    return [d.item_id for d in found]


def test_tasks_that_are_failed_or_refused_drop_out(frail, caplog):
    assert collect(frail, 10, 0, 11, 1, 12, 2, 13) == [
        "frail_10",
        "frail_11",
        "frail_12",
        "frail_13",
    ]
    assert not caplog.records


def test_tasks_that_the_environment_loses_drop_out_and_are_told(frail, caplog):
    expected = [f"frail_{number}" for number in range(10, 30)]
    found = collect(frail, *range(10, 20), 3, 4, 5, 6, *range(20, 30))
    assert found == expected
    (record,) = caplog.records
    text = record.getMessage()
    assert "4 of 24 demonstrations of 'frail' were lost to the environment" in text
    assert "2 raised" in text and "1 returned something invalid" in text
    assert "1 ended the worker process" in text
    assert "task frail_3" in text and "python -m agentrl.launch.play" in text


def test_too_many_lost_tasks_are_refused(frail):
    assert len(collect(frail, *range(10, 19), 3, limit=0.1)) == 9
    with pytest.raises(
        faults.EnvFaultsError, match="2 of 10 demonstrations of 'frail'"
    ):
        collect(frail, *range(10, 18), 3, 4, limit=0.1)


@pytest.mark.parametrize(
    "numbers, counts, shown",
    [
        ((0, 1, 2, 0), "2 refused, 2 ended unsolved", "frail_0"),
        ((1,), "1 refused, 0 ended unsolved", "frail_1"),
        ((3, 2), "1 refused, 0 ended unsolved, 1 lost to the environment", "frail_2"),
        ((6,), "0 refused, 0 ended unsolved, 1 lost to the environment", "frail_6"),
    ],
)
def test_an_oracle_that_solves_nothing_is_refused(frail, numbers, counts, shown):
    with pytest.raises(base.EnvConfigError) as refused:
        collect(frail, *numbers)
    told = str(refused.value)
    assert "\n" not in told and f"({counts})" in told
    assert f"oracle of 'frail' solved 0 of {len(numbers)} tasks" in told
    assert f"--task={shown} " in told and "--oracle=observational` shows one" in told


def test_examples_of_an_oracle_that_solves_nothing_are_refused(frail, monkeypatch):
    unsolved = base.TaskPanel("frail", "train", "frail-1", ("frail_0",))
    spec = dataclasses.replace(registry.get_spec("frail"), panel=lambda *_: unsolved)
    monkeypatch.setattr(registry, "get_spec", lambda name: spec)
    with pytest.raises(base.EnvConfigError, match="solved 0 of 1 tasks"):
        demonstrations.choose_examples(frail, "frail", 2)


def test_no_tasks_have_no_demonstrations(frail):
    assert collect(frail) == []


def test_an_environment_without_oracle_is_refused(frail, monkeypatch):
    monkeypatch.setitem(registry.get_spec("frail").oracles, "observational", None)
    monkeypatch.delitem(registry.get_spec("frail").oracles, "observational")
    with pytest.raises(
        base.EnvConfigError, match="'frail' has no observational oracle"
    ):
        collect(frail, 10)
