"""Other words around the same task: nothing else changes."""

import pytest

from agentrl.envs import base, checks, episodes, perturbations, registry, tasks

NAMES = ("textcraft", "babyai", "alfworld", "searchqa", "webshop")
ALL = {
    "irrelevant_text": 0.5,
    "rename_verbs": True,
    "shuffle_sections": True,
    "answer_format": "json",
}
pytestmark = pytest.mark.usefixtures("factbook_cache")


def configure(profile="strict", **options):
    return base.EnvConfig(profile, options=options)


def outcome(name, config, item_id, kind):
    turns = episodes.play_oracle(name, config, item_id, kind)
    return [(r.reward, r.terminated, r.truncated, r.info) for _, r in turns]


def check_outcomes(name, options, count):
    usual, other = configure(), configure(**options)
    for item_id in episodes.sample_tasks(name, usual, count):
        for kind in registry.get_spec(name).oracles:
            expected = outcome(name, usual, item_id, kind)
            assert outcome(name, other, item_id, kind) == expected
            assert expected[-1][-1].success or kind == "observational"
    panels = [tasks.select_tasks(name, "test", c) for c in (usual, other)]
    assert panels[0].item_ids == panels[1].item_ids
    assert panels[0].digest != panels[1].digest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dial", [0.25, 1, 3.0])
def test_oracles_solve_with_equal_rewards_beside_irrelevant_text(name, dial):
    check_outcomes(name, {"irrelevant_text": dial}, 1)


@pytest.mark.parametrize("name", NAMES)
def test_oracles_solve_with_equal_rewards_in_other_words(name):
    check_outcomes(name, ALL, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_more_tasks_under_each_perturbation(name):
    for options in (
        *({"irrelevant_text": dial} for dial in (0.25, 1, 3.0)),
        {"rename_verbs": True},
        {"shuffle_sections": True, "perturbation_seed": 3},
        {"answer_format": "tags"},
        ALL,
    ):
        check_outcomes(name, options, 20)


@pytest.mark.parametrize("name", ["textcraft", "babyai", "searchqa"])
def test_perturbed_environments_keep_the_contract(name):
    config = base.EnvConfig(list_actions="first", options=ALL)
    for check in (
        *(checks.check_purity, checks.check_interleaving, checks.check_config),
        *(checks.check_call_order, checks.check_turn_limit),
        *(checks.check_listed_actions, checks.check_action_lists),
    ):
        check(name, config)
    # A refused answer takes a turn, and what is drawn depends on the turn.
    words = {"rename_verbs": True, "answer_format": "json"}
    checks.check_hostile_texts(name, base.EnvConfig(options=words))


def test_the_dial_says_how_much_is_added():
    plain = registry.make("textcraft").reset("textcraft_0").split("\n")
    lengths = []
    for dial in (0.25, 1, 3.0):
        env = registry.make("textcraft", configure(irrelevant_text=dial))
        shown = env.reset("textcraft_0").split("\n")
        assert [line for line in shown if line in plain] == plain  # nothing is lost
        lengths.append(len(shown) - len(plain))
        again = registry.make("textcraft", configure(irrelevant_text=dial))
        assert again.reset("textcraft_0").split("\n") == shown
    assert 0 < lengths[0] < lengths[1] <= lengths[2] <= perturbations.MAX_SENTENCES
    other = configure(irrelevant_text=3.0, perturbation_seed=1)
    assert registry.make("textcraft", other).reset("textcraft_0").split("\n") != shown


@pytest.mark.parametrize(
    "name, usual, other",
    [
        ("textcraft", "inventory", "bag"),
        ("babyai", "turn left", "rotate left"),
        ("alfworld", "look", "observe"),
        ("webshop", "search[red]", "find[red]"),
    ],
)
def test_only_the_other_name_of_an_action_is_understood(name, usual, other):
    config = configure(rename_verbs=True)
    (item_id,) = episodes.sample_tasks(name, config, 1)
    env = registry.make(name, config)
    env.reset(item_id)
    assert not env.step(f"Thought: So.\nAction: {usual}").info.valid_action
    assert env.step(f"Thought: So.\nAction:\n{other}").info.valid_action
    assert usual.split()[0] not in env.instruction.replace(other, "").split()


def test_tags_of_searches_are_renamed():
    env = registry.make("searchqa", configure(rename_verbs=True))
    env.reset("searchqa_0")
    assert "<lookup>" in env.instruction and "<search>" not in env.instruction
    assert not env.step("<search>Paris</search>").info.valid_action
    assert env.step("<lookup>Paris</lookup>").observation.startswith("<information>")


@pytest.mark.parametrize(
    "form, answer, understood",
    [
        ("json", '{"thought": "", "action": "inventory"}', True),
        ("json", 'I think.\n{"action": "inventory"}\n', True),
        ("json", "Thought:\n\n\nAction:\ninventory", False),
        ("json", '{"action": 3}', False),
        ("json", "{" * 5000, False),
        ("json", '["inventory"]', False),
        ("tags", "So.\n<action>inventory</action>", True),
        ("tags", "<action>inventory</action><action>inventory</action>", False),
        ("tags", "Action: inventory", False),
    ],
)
def test_other_forms_of_answers(form, answer, understood):
    env = registry.make("textcraft", configure(answer_format=form))
    env.reset("textcraft_0")
    info = env.step(answer).info
    assert (info.valid_action, info.parsed_action == "inventory") == (understood,) * 2
    assert '"action"' in env.instruction or "<action>" in env.instruction
    assert "Action:\n" not in env.instruction


def test_rules_and_lists_stand_in_another_order():
    for name in NAMES:
        usual = registry.make(name)
        other = registry.make(name, configure(shuffle_sections=True))
        assert sorted(other.instruction) == sorted(usual.instruction)
    env = registry.make("babyai", configure(shuffle_sections=True))
    shown = env.reset("babyai_0")
    actions = env.available_actions()
    assert not shown.endswith(env._format_actions(actions))
    assert all(action in shown for action in actions)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("irrelevant_text", -1, "from 0 to 10"),
        ("irrelevant_text", "much", "from 0 to 10"),
        ("irrelevant_text", float("nan"), "from 0 to 10"),
        ("rename_verbs", "yes", "true or false"),
        ("shuffle_sections", 1, "true or false"),
        ("answer_format", "xml", "choose one of"),
        ("perturbation_seed", 1.5, "give an integer"),
    ],
)
def test_values_that_cannot_be_used_are_told(option, value, message):
    with pytest.raises(base.EnvConfigError, match=message):
        registry.make("textcraft", configure(**{option: value}))


def test_a_perturbation_without_effect_changes_no_digest():
    none = {"irrelevant_text": 0, "rename_verbs": False, "perturbation_seed": 5}
    usual, other = (
        tasks.select_tasks("textcraft", "test", configure(**options))
        for options in ({}, none)
    )
    assert usual.digest == other.digest
