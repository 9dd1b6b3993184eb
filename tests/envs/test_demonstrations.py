"""Demonstrations under other names."""

import re

import pytest

from agentrl.envs import base, demonstrations, tasks

CONFIG = base.EnvConfig(options={"distractors": 0})


@pytest.fixture(scope="module")
def solved():
    ids = tasks.select_tasks("textcraft", "train", CONFIG, tier="easy").item_ids
    return demonstrations.collect("textcraft", CONFIG, ids[:60], thoughts=False)


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
