"""Policies of Hugging Face folders that answer; docs/howto_library.md has one of a run."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

from agentrl import config, errors
from agentrl.chat import renderer
from agentrl.models import transformer
from agentrl.play import policy
from agentrl.rollout import live

sys.path.append(str(pathlib.Path(__file__).parents[1] / "chat"))
import chat_families

START = [
    {"role": "system", "content": "You play."},
    {"role": "user", "content": "You see a red ball."},
]


@pytest.fixture(scope="module")
def reply(loaded):
    return loaded.act(START)


def test_a_conversation_is_rendered_as_the_models_template_does(loaded, reply):
    family = chat_families.make_family("qwen2.5")
    expected = family.apply_chat_template(
        START, add_generation_prompt=True, tokenize=False
    )
    ids = family(expected, add_special_tokens=False)["input_ids"]
    assert loaded.render(START) == ids


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_logprobs_are_those_of_the_whole_context(shape, folder, temperature):
    loaded = policy.load(folder, max_action_tokens=12, temperature=temperature)
    reply = loaded.act(START)
    start = loaded.render(START)
    ids = np.array([*start, *reply.tokens], np.int32)[None]
    model = transformer.Model(shape)
    params = model.init(jax.random.key(0))
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    hidden = model.hidden(params, ids, positions, segment_ids=np.ones_like(ids))
    logits = hidden @ model.unembedding(params)
    logits = logits[0, :, : loaded.tokenizer.vocab_size]
    scores = np.asarray(jax.nn.log_softmax(logits))
    rows = np.arange(len(start) - 1, ids.shape[1] - 1)
    np.testing.assert_allclose(
        reply.logprobs, scores[rows, list(reply.tokens)], atol=1e-4
    )


def test_replies_repeat_with_the_seed_and_differ_from_call_to_call(folder, reply):
    again = policy.load(folder, max_action_tokens=12, seed=3)
    assert again.act(START) == reply
    assert again.act(START) != reply
    assert policy.load(folder, max_action_tokens=12, seed=4).act(START) != reply


def with_rollout(loaded, **changes):
    rollout = dataclasses.replace(loaded.rollout, **changes)
    return policy.Policy(dataclasses.replace(loaded._parts, rollout=rollout), seed=3)


def test_a_thought_ends_at_its_limit_as_in_training(loaded, monkeypatch):
    # The header of an answer opens a thought, as that of models which always think.
    monkeypatch.setattr(renderer.Chat, "opens_thought", True)
    thinking = with_rollout(loaded, max_thinking_tokens=4, max_action_tokens=60)
    reply = thinking.act(START)
    end = loaded.tokenizer.encode(live.END_OF_THOUGHT)
    assert list(reply.tokens[4 : 4 + len(end)]) == end
    assert 4 + len(end) < len(reply.tokens) <= 60
    assert reply.text.count(renderer.THOUGHT_END) == 1
    assert max(reply.logprobs) < 0  # also of what the policy did not choose

    plain = with_rollout(loaded, max_action_tokens=60).act(START)
    assert plain.tokens[:4] == reply.tokens[:4] and plain.tokens != reply.tokens


def test_limits_that_are_given_fit_those_of_the_run():
    rollout = config.RolloutConfig(
        temperature=0.6, top_p=0.95, top_k=20, max_thinking_tokens=48,
        max_action_tokens=64,
    )  # fmt: skip
    greedy = policy._one_row(rollout, {"temperature": 0.0})
    assert (greedy.temperature, greedy.top_k, greedy.top_p) == (0.0, 0, 1.0)
    short = policy._one_row(rollout, {"max_action_tokens": 32})
    assert (short.max_thinking_tokens, short.top_p) == (16, 0.95)
    assert policy._one_row(rollout, {}).max_thinking_tokens == 48


def test_an_earlier_reply_keeps_its_tokens(loaded, reply):
    follow = [*START, reply, {"role": "user", "content": "And now?"}]
    start = loaded.render(START)
    rest = loaded.render(follow)[len(start) :]
    assert rest[: len(reply.tokens)] == list(reply.tokens)
    stop = loaded.tokenizer.stop_id
    assert not reply.stopped and rest[len(reply.tokens)] == stop  # it was cut off
    as_text = [*START, {"role": "assistant", "content": "go"}, follow[-1]]
    between = loaded.render(as_text)[len(start) :]
    assert rest[len(reply.tokens) :] == between[between.index(stop) :]


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "0 messages must end with a user's"),
        ([*START, {"role": "assistant", "content": "go"}], "must end with a user's"),
        ([{"role": "tool", "content": "x"}], "a message has the keys role"),
        ([{"role": "user"}], "a message has the keys role"),
        ([*START, START[1]], "after 'user'"),
        ([{"role": "user", "content": "word " * 1200}], "room for 1024"),
    ],
)
def test_conversations_that_cannot_be_are_refused(loaded, conversation, message):
    with pytest.raises(errors.ConfigError, match=message):
        loaded.act(conversation)


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(errors.CheckpointError):
        policy.load(tmp_path)
