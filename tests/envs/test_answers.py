"""Answers as models write them: what is understood natively and through adapters.

`tests/data/agentgym_answers.json` holds what AgentGym's own clients make of them.
"""

import importlib
import json
import pathlib

import pytest

from agentrl.envs import answers, base, parsing, registry

ROOT = pathlib.Path(__file__).parents[2]
UPSTREAM = json.loads((ROOT / "tests/data/agentgym_answers.json").read_text())
LAST, SINGLE = ("webshop", "alfworld", "sciworld"), ("textcraft", "babyai")
REASONING = "I weigh the possibilities again, one after the other. " * 4_000
FIRST = {  # a task and an action that can be taken at its start
    "textcraft": ("textcraft_0", "Action: inventory"),
    "babyai": ("babyai_0", "Action: turn left"),
    "alfworld": ("alfworld_0", "Action: look"),
    "searchqa": ("searchqa_0", "<search>capital</search>"),
    "webshop": ("webshop_0", "Action: search[shoes]"),
}


def test_the_page_is_up_to_date():
    assert (ROOT / "docs/answers.md").read_text() == answers.render_table()


def test_there_are_a_hundred_answers():
    listed = answers.list_answers()
    assert len(set(listed)) == len(listed) == 100
    assert [row["answer"] for row in UPSTREAM["answers"]] == list(listed)


@pytest.mark.parametrize("row", UPSTREAM["answers"], ids=range(1, 101))
def test_agentgym_understands_what_its_clients_do(row):
    """Carriage returns within an action are printed as what they stand for."""
    expected = row.get("without_thoughts", row)
    found = answers.understand(row["answer"], "agentgym")
    for kind in ("last", "single", "tags"):
        wanted = expected[kind].replace("\r\n", "\n").replace("\r", "\t")
        assert getattr(found, kind) == wanted, kind


def test_only_answers_with_thoughts_are_read_otherwise_than_upstream():
    with_thoughts = [row for row in UPSTREAM["answers"] if "think>" in row["answer"]]
    assert [row for row in UPSTREAM["answers"] if "without_thoughts" in row] == (
        with_thoughts
    )
    assert len(with_thoughts) == 23


def play(name, profile, answer):
    env = registry.make(name, base.EnvConfig(profile))
    env.reset(FIRST[name][0])
    return env.step(answer)


@pytest.mark.parametrize("profile", base.PROFILES)
@pytest.mark.parametrize("name", FIRST)
def test_native_environments_understand_what_the_table_says(name, profile):
    for answer in answers.list_answers():
        found = play(name, profile, answer).info
        wanted = answers.understand(answer, profile)
        if name == "searchqa":
            if found.parsed_action:  # else the environment refuses the answer
                assert found.parsed_action == wanted.tags, answer
            else:
                assert found.parse_error and wanted.tags in ("", "search[]", "answer[]")
            continue
        action = wanted.last if name in LAST else wanted.single
        if action == "(error)":
            assert found.parse_error and not found.parsed_action
        else:
            assert found.parsed_action.lower() == action.lower(), answer


@pytest.mark.parametrize("profile", base.PROFILES)
@pytest.mark.parametrize("name", [*LAST, *SINGLE, "searchqa"])
def test_adapters_send_what_the_table_says(name, profile, monkeypatch):
    module = importlib.import_module(f"agentrl.envs.adapters.agentgym.{name}")
    options = {"server": "http://127.0.0.1:1"}
    env = module.SPEC.make(base.EnvConfig(profile, max_turns=1000, options=options))
    sent = []

    def call(method, path, body):
        if path == "step":
            sent.append(body["action"])
        reply = {"observation": "seen", "state": "seen", "task_description": "do"}
        return reply | {"id": 1, "reward": 0, "score": 0, "done": False}

    monkeypatch.setattr(env, "_call", call)
    monkeypatch.setattr(env, "_first_observation", lambda reply: "seen")
    env.reset(f"{name}_0")
    for answer in answers.list_answers():
        sent.clear()
        env._last_score = 0.0
        env.step(answer)
        wanted = answers.understand(answer, profile)
        if name == "searchqa":
            assert sent == [parsing.read_answer(answer, profile)]
            continue
        action = wanted.last if name in LAST else wanted.single
        assert sent == ([] if action == "(error)" else [action]), answer


@pytest.mark.parametrize("profile", base.PROFILES)
@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize(
    "form",
    [
        "Thought:\n{reasoning}\n\n{action}",
        "<think>{reasoning}</think>{action}",
        "{reasoning}\n</think>\n\n{action}",
        "<think>Action: no <answer>no</answer>\nAction: no</think>\r\n{action}\r\n",
    ],
)
def test_an_action_is_found_after_long_reasoning(name, profile, form):
    action = FIRST[name][1]
    expected = play(name, profile, action)
    assert expected.info.valid_action
    assert play(name, profile, form.format(reasoning=REASONING, action=action)) == (
        expected
    )


@pytest.mark.parametrize("profile", base.PROFILES)
@pytest.mark.parametrize("name", FIRST)
def test_what_is_echoed_is_short(name, profile):
    for answer in ("Action: " + "go " * 100_000, f"<answer>{REASONING}</answer>"):
        result = play(name, profile, answer)
        assert len(result.info.parsed_action) <= parsing.MAX_PARSED_CHARS + 10
        assert len(result.observation) <= 2 * parsing.MAX_PARSED_CHARS


@pytest.mark.parametrize(
    "answer, rest",
    [
        ("a<think>b</think>c", "ac"),
        ("a<think>b", "a"),
        ("a</think>b", "b"),
        ("<think>a<think>b</think>c", "c"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("a<think>b</think>c<think>d</think>e", "ace"),
        ("a</think>b</think>c", "c"),
        ("<THINK>a", "<THINK>a"),
    ],
)
def test_thoughts_are_removed(answer, rest):
    assert parsing.remove_thoughts(answer) == rest
