"""Instructions and acknowledgements that a user puts in place of the environments'."""

import pytest

from agentrl.envs import base, prompts, registry, tasks

NAMES = ("textcraft", "babyai", "alfworld", "searchqa", "webshop")
OK = "OK. I'll follow your instructions and try my best to solve the task."


def make(name, profile="strict", **options):
    return registry.make(name, base.EnvConfig(profile, options=options))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("adapted", [False, True])
def test_acknowledgements_are_upstreams_in_agentgym(name, adapted, monkeypatch):
    options = {}
    if adapted:
        monkeypatch.setitem(
            registry._MODULES, name, f"agentrl.envs.adapters.agentgym.{name}"
        )
        options["server"] = "http://127.0.0.1:1"
    registry.get_spec.cache_clear()
    short = name in ("searchqa", "webshop")
    assert make(name, "agentgym", **options).acknowledgement == ("Ok." if short else OK)
    assert make(name, "strict", **options).acknowledgement == OK
    registry.get_spec.cache_clear()


@pytest.mark.parametrize("profile", base.PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_texts_are_replaced_by_text_or_file(name, profile, tmp_path):
    (tmp_path / "rules.txt").write_text("\ufeffMy rules.\n", encoding="utf-8")
    own = make(name, profile)
    env = make(
        name,
        profile,
        instruction=f"@{tmp_path / 'rules.txt'}",
        acknowledgement="Will do.",
    )
    assert (env.instruction, env.acknowledgement) == ("My rules.", "Will do.")
    assert own.instruction == own.default_instruction != "My rules."


def test_replaced_texts_are_part_of_the_digest(tmp_path):
    path = tmp_path / "rules.txt"
    panels = []
    for text in ("My rules.", "Other rules."):
        path.write_text(text)
        config = base.EnvConfig(options={"instruction": f"@{path}"})
        panels.append(tasks.select_tasks("textcraft", "test", config))
    plain = tasks.select_tasks("textcraft", "test", base.EnvConfig())
    assert len({panel.digest for panel in (*panels, plain)}) == 3
    assert panels[0].version.startswith("textcraft-1, instruction ")
    same = base.EnvConfig(options={"instruction": "Other rules."})
    assert tasks.select_tasks("textcraft", "test", same) == panels[1]


@pytest.mark.parametrize("given", ["", "  ", "@/nowhere.txt", "@"])
@pytest.mark.parametrize("option", prompts.OPTIONS)
def test_texts_that_cannot_be_read_are_told(option, given):
    with pytest.raises(base.EnvConfigError, match=f"option {option} = "):
        make("textcraft", **{option: given})
    config = base.EnvConfig(options={option: given})
    with pytest.raises(tasks.TaskSelectionError, match=f"option {option} = "):
        tasks.select_tasks("textcraft", "test", config)


def test_an_environment_without_rules_of_its_own_says_so():
    class Bare(base.Environment):
        name = "bare"
        turn_limits = {"strict": 1, "agentgym": 1}  # noqa: RUF012

        def _start(self, index):
            return ""

        def _apply(self, text):
            return base.StepResult("")

    with pytest.raises(NotImplementedError, match="'bare' has to define"):
        _ = Bare().instruction
    given = base.EnvConfig(options={"instruction": "Do it."})
    assert Bare(given).instruction == "Do it."
