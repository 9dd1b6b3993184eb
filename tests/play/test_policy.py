"""Policies of Hugging Face folders that answer; docs/howto_library.md has one of a run."""

import pathlib
import sys

import jax
import numpy as np
import pytest

from agentrl import errors
from agentrl.models import transformer
from agentrl.play import policy

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
