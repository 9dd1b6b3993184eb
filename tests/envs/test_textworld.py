"""TextWorld: quests from the generator. Skipped without the extra `textworld`."""

import os
import pathlib
import subprocess
import sys

import pytest

from agentrl.envs import base, registry, textworld

ROOT = pathlib.Path(__file__).parents[2]
SPEC = registry.get_spec("textworld")


def test_panels_and_subsets_need_no_package():
    config = base.EnvConfig()
    train, test = (SPEC.panel(split, config) for split in ("train", "test"))
    assert not set(train.item_ids) & set(test.item_ids)
    assert SPEC.subset("textworld_4", config) == "quest_4"
    assert SPEC.tier("textworld_3", config) == "easy"
    with pytest.raises(base.UnknownItemError, match="there is no task 1050"):
        SPEC.subset("textworld_1050", config)


def test_replies_are_shown_without_banner_and_status_line():
    reply = "\nYou take it.\n\n\n\n>        -= Hall =-0/2"
    assert textworld._clean(reply) == "You take it."
    last = "\nDone.\n\n   *** The End ***\n\nYou scored 1.\n>   -= Hall =-0/3"
    assert textworld._clean(last) == "Done."


@pytest.fixture
def env(tmp_path, monkeypatch):
    pytest.importorskip("textworld", reason="extra textworld")
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    textworld._find_game.cache_clear()
    made = registry.make("textworld")
    yield made
    made.close()
    textworld._find_game.cache_clear()


@pytest.mark.slow
def test_games_do_not_depend_on_the_hash_seed(env):
    code = (
        "from agentrl.envs import textworld; game, options = textworld._make_game(7);"
        "print(options.seeds, game.objective, textworld._describe(game))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(printed) == 1


@pytest.mark.slow
def test_a_quest_is_solved_and_only_listed_commands_are_played(env):
    first = env.reset("textworld_0")
    assert "AVAILABLE ACTIONS: " in first and "$$$" not in first
    for command in ("undo", "restart", "save", "quit", "", "dance"):
        result = env.step(f"Action: {command}")
        assert not result.info.valid_action
        assert result.observation.startswith("That is not possible now.")
    oracle = textworld.SolutionOracle(env)
    for _ in range(2):
        result = env.step(oracle.act(""))
    assert (result.reward, result.terminated, result.info.success) == (1, True, True)
