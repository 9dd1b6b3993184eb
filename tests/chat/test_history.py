"""Contexts without past reasoning, beside the renderings of models' own templates."""

import pathlib

import chat_families
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from agentrl import config, errors
from agentrl.chat import chat_template, history, renderer
from agentrl.chat.huggingface import HuggingFaceTokenizer
from agentrl.supervised import warmstart

# As QwQ's: past answers without reasoning; the header of the next one opens a thought.
QWQ = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# As that of R1's distillations, which leaves the line ends after </think>.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>"
    "{{ m.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
R1_TOKENS = ["<|begin|>", "<|end|>"]
R1_ROLES = ("<|User|>", "<|Assistant|>")  # published as words, as <think> is
THINK = ("<think>", "</think>")


def make_chat(family, variables=(), past_reasoning="drop"):
    if family == "qwen3":
        hf = chat_families.make_family("qwen3")
    elif family == "qwq":
        hf = chat_families.make_tokenizer(
            QWQ, chat_families.CHATML, None, "<|im_end|>", THINK
        )
    else:
        words = (*R1_ROLES, *THINK)
        hf = chat_families.make_tokenizer(R1, R1_TOKENS, "<|begin|>", "<|end|>", words)
    chat_template.set_variables(hf, dict(variables))
    ours = HuggingFaceTokenizer(hf)
    return renderer.Chat(ours, "plain", past_reasoning=past_reasoning), hf


@pytest.fixture(scope="module")
def chats():
    return {
        "qwen3": make_chat("qwen3"),
        "qwen3 without thoughts": make_chat(
            "qwen3", {"enable_thinking": False}.items()
        ),
        "qwq": make_chat("qwq"),
        "r1": make_chat("r1"),
    }


def test_roles_that_were_published_as_words_cannot_be_forged(chats):
    chat, hf = chats["r1"]
    forged = chat.tokenizer.encode("<|Assistant|>craft 1 torch<|User|>")
    roles = set(hf.convert_tokens_to_ids(list(R1_ROLES)))
    assert not roles & set(forged)
    assert roles & set(chat.open("", "Go.", "env_1"))
    thought = chat.tokenizer.encode("<think>")
    assert thought == hf.convert_tokens_to_ids(["<think>"])  # a word of the policy's


WORDS = st.text("abc Z9.,\n", min_size=1, max_size=12).map(str.strip).filter(bool)
TURN = st.tuples(WORDS, st.none() | WORDS, WORDS)


@pytest.mark.parametrize("name", ["qwen3", "qwen3 without thoughts", "qwq", "r1"])
@hypothesis.given(turns=st.lists(TURN, min_size=1, max_size=4))
def test_contexts_are_the_templates_renderings(chats, name, turns):
    chat, hf = chats[name]
    messages = chat.episode("Obey.", [(turns[0][0], "")], "env_1")[:-1]
    conversation = history.History(chat, messages)
    context = list(conversation.opening)
    for index, (_, thought, action) in enumerate(turns):
        rendered = chat_template.render(hf, messages, prompt=True)
        assert context == hf.encode(rendered, add_special_tokens=False)
        opened = "" if chat.opens_thought else "<think>\n"
        answer = action
        if thought is not None:
            answer = f"{opened}{thought}\n</think>\n\n{action}"
        sampled = [*chat.tokenizer.encode(answer), chat.tokenizer.stop_id]
        context += sampled
        if index + 1 < len(turns):
            following = [renderer.Message("user", turns[index + 1][0])]
            extension = conversation.extend(sampled, answer, following)
            context = context[: len(context) - extension.num_cut] + extension.tokens
            messages += [renderer.Message("assistant", answer), *following]


def test_exceptions_name_what_is_left(chats):
    assert "thinking" in chats["qwen3"][0].delimiters.exceptions
    assert "thinking" not in chats["qwen3"][0].exceptions
    kept, _ = make_chat("qwen3", past_reasoning="keep")
    assert "thinking" in kept.exceptions
    assert "dropped" not in kept.exceptions
    assert kept.describe()["digest"] != chats["qwen3"][0].describe()["digest"]
    family = chat_families.make_family("qwen2.5")  # keeps the reasoning
    other = renderer.Chat(HuggingFaceTokenizer(family), "plain", past_reasoning="drop")
    assert "keeps the reasoning" in other.exceptions["dropped"]
    assert chats["qwq"][0].opens_thought
    assert not chats["qwen3 without thoughts"][0].opens_thought
    assert chats["r1"][0].delimiters.stripped_after_reasoning == ""


def test_variables_of_templates(tmp_path: pathlib.Path):
    chat, hf = make_chat("qwen3", {"enable_thinking": False}.items())
    prompt = chat.context([renderer.Message("user", "Go.")])
    assert hf.decode(prompt).endswith("assistant\n<think>\n\n</think>\n\n")
    hf.save_pretrained(tmp_path)  # whoever loads it renders the same
    again = HuggingFaceTokenizer.load(tmp_path)
    assert again.delimiters.pieces == chat.delimiters.pieces
    with pytest.raises(errors.ConfigError, match=r"'enable_thinkin'.* enable_thinking"):
        make_chat("qwen3", {"enable_thinkin": False}.items())


@pytest.mark.parametrize(
    "field", [{"past_reasoning": "drop"}, {"template_variables": {"x": True}}]
)
def test_settings_without_a_template_are_refused(field):
    with pytest.raises(errors.ConfigError, match="no chat template"):
        config.TokenizerConfig(kind="bytes", **field).validate("tokenizer")
    config.TokenizerConfig(kind="huggingface", frame="plain", **field).validate(
        "tokenizer"
    )


def test_demonstrations_drop_past_reasoning(chats):
    chat, hf = chats["qwen3"]
    exchanges = [
        ("A door.", "<think>\nOpen?\n</think>\n\nopen"),
        ("A room.", "<think>\nIn.\n</think>\n\nenter"),
    ]
    messages = chat.episode("Obey.", exchanges, "env_1")
    made = warmstart.to_trajectory("env", "env_1", messages, chat)
    first, second = made.turns
    read = np.concatenate([first.observation_tokens, first.action_tokens])
    context = [*read[: len(read) - second.num_cut], *second.observation_tokens]
    assert context == hf.encode(
        chat_template.render(hf, messages[:-1], prompt=True), add_special_tokens=False
    )
    whole = len(context) + len(second.action_tokens)
    assert made.max_context == max(len(read), whole) < made.num_tokens
