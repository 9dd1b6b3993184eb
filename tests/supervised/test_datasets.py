import json

import pytest

from agentrl import config, errors
from agentrl.chat import renderer
from agentrl.chat.tokenizer import ByteTokenizer
from agentrl.envs import base
from agentrl.supervised import datasets, warmstart

BYTES = ByteTokenizer()
TRAJ = {
    "item_id": "babyai_3",
    "conversations": [
        {"from": "human", "loss": None, "value": "rules"},
        {"from": "gpt", "loss": False, "value": "OK."},
        {"from": "human", "loss": None, "value": "obs"},
        {"from": "gpt", "loss": True, "value": "act"},
        {"from": "human", "loss": None, "value": "next"},
        {"from": "gpt", "loss": None, "value": "go"},
        {"from": "human", "loss": None, "value": "end"},
    ],
}
OPENAI = {
    "messages": [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "obs\u2028"},
        {"role": "assistant", "content": "act"},
    ],
}


def write(path, *items, lines=False):
    text = (
        "\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n"
        if lines
        else json.dumps(items)
    )
    path.write_text(text)
    return path


def demonstrations(path, framed, *environments):
    return warmstart.collect_demonstrations(
        {name: base.TaskPanel(name, "train", "1", ()) for name in environments},
        None,  # stored conversations need no environments
        config.Supervised(conversations=str(path)),
        framed,
        max_tokens=500,
    )


def shown(ids):
    names = {BYTES.start_id: "<", BYTES.stop_id: ">"}
    return "".join(names.get(i) or chr(i) for i in ids)


@pytest.mark.parametrize("lines", [True, False])
def test_both_formats_are_read_from_lists_and_lines(tmp_path, lines):
    path = write(tmp_path / "data", TRAJ, OPENAI, lines=lines)
    (first, traj), (second, openai) = datasets.read(path)
    assert (first, second) == ("babyai_3", "2")
    assert [m.role for m in traj] == ["user", "assistant"] * 3 + ["user"]
    assert [m.text for m in traj if m.trained] == ["act", "go"]
    assert openai == [
        renderer.Message("system", "rules"),
        renderer.Message("user", "obs\u2028"),
        renderer.Message("assistant", "act", trained=True),
    ]


def test_only_trained_answers_and_their_stop_tokens_are_actions(tmp_path):
    path = write(tmp_path / "data.json", TRAJ)
    framed = renderer.Chat(BYTES, "agentgym")
    (trajectory,) = demonstrations(path, framed, "textcraft", "babyai")
    assert trajectory.task.env == "babyai"
    turns = [
        (shown(turn.observation_tokens), shown(turn.action_tokens))
        for turn in trajectory.turns
    ]
    assert turns == [
        ("<user\nrules>\n<assistant\nOK.>\n<user\nobs>\n<assistant\n", "act>"),
        ("\n<user\nnext>\n<assistant\n", "go>"),
    ]
    assert [(t.observation, t.action) for t in trajectory.turns] == [
        ("obs", "act"),
        ("next", "go"),
    ]


def test_a_stored_demonstration_equals_the_oracles(tmp_path):
    framed = renderer.Chat(BYTES, "agentgym")
    stored = {
        "item_id": "babyai_3",
        "conversations": [
            {"from": "human", "value": "rules"},
            {"from": "gpt", "value": renderer.ACKNOWLEDGEMENT, "loss": False},
            {"from": "human", "value": "obs"},
            {"from": "gpt", "value": "act"},
        ],
    }
    path = write(tmp_path / "data.json", stored)
    (ours,) = demonstrations(path, framed, "babyai")
    messages = framed.episode("rules", [("obs", "act")], "babyai_3")
    oracles = warmstart.to_trajectory("babyai", "babyai_3", messages, framed)
    assert ours.task == oracles.task
    assert shown(ours.turns[0].observation_tokens) == shown(
        oracles.turns[0].observation_tokens
    )
    assert shown(ours.turns[0].action_tokens) == shown(oracles.turns[0].action_tokens)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"item_id": "a_1"}]', "conversation 1: KeyError: 'messages'"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "message of 'tool'"),
        ('{"messages": [{"role": "user", "content": null}]}', "'user' holds 'None'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no answer to train on"),
        ('{"messages": \n', "cannot read conversations .* Expecting value"),
        ('["text"]', "conversation 1: TypeError"),
    ],
)
def test_other_files_are_refused_by_conversation(tmp_path, content, message):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(errors.ConfigError, match=message):
        datasets.read(path)
    with pytest.raises(errors.ConfigError, match="cannot read conversations"):
        datasets.read(tmp_path / "absent")


def test_conversations_out_of_turn_are_refused_by_name(tmp_path):
    twice = {"item_id": "x_1", "messages": [OPENAI["messages"][1]] * 2}
    twice["messages"].append(OPENAI["messages"][2])
    path = write(tmp_path / "data.json", twice)
    with pytest.raises(
        errors.ConfigError, match=r"conversation 1: .* 'user' after 'user'"
    ):
        demonstrations(path, renderer.Chat(BYTES, "plain"), "babyai")


def test_conversations_without_a_task_count_for_the_first_environment(tmp_path):
    path = write(tmp_path / "data.json", OPENAI)
    (only,) = demonstrations(path, renderer.Chat(BYTES, "plain"), "textcraft", "babyai")
    assert only.task.env == "textcraft"


def test_conversations_that_do_not_fit_are_left_out(tmp_path):
    long = {"messages": [*OPENAI["messages"][:2], {"role": "assistant", "content": ""}]}
    long["messages"][2]["content"] = "act " * 200
    framed = renderer.Chat(BYTES, "plain")
    path = write(tmp_path / "data.json", OPENAI, long)
    assert len(demonstrations(path, framed, "babyai")) == 1
    path = write(tmp_path / "data.json", long)
    with pytest.raises(errors.ConfigError, match=r"data\.json.*max_tokens = 500"):
        demonstrations(path, framed, "babyai")
