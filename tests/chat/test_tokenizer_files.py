"""Own vocabularies as files of `transformers`: ids, templates, and what is refused."""

import io

import hypothesis
import hypothesis.strategies as st
import pytest
import sentencepiece
import transformers

from agentrl import errors
from agentrl.chat import renderer, tokenizer, tokenizer_files

TEXTS = [
    "Crafting commands:\ncraft 4 oak planks using 1 oak logs\n\nGoal: craft oak door.",
    "aaaa bababab   aba abab    -------- ======\n\n    if x:\n        pass",
    'Available actions: ["turn left", "turn right", "go to red ball 1"]',
] * 4
PIECES = [
    "\U0001f600",
    "e\u0301",
    "\n",
    "\r\n",
    "  ",
    " " * 9,
    "\t",
    "\u2581",
    "<0x41>",
]
MARKS = [tokenizer.TURN_START, tokenizer.TURN_END, "<pad>", "<unk>", "<|im_", "\ufffd"]
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from([*PIECES, *MARKS, "ab", "aba", "--", "craft oak"]),
        st.text("ab -=", max_size=30),
    ),
    max_size=8,
).map("".join)
FRAMES = ["bare", "plain", "agentgym"]


@pytest.fixture(scope="module")
def trained():
    return tokenizer.SentencePieceTokenizer.train(TEXTS, 340)


@pytest.fixture(params=["sentencepiece", "bytes"], scope="module")
def pair(request, trained, tmp_path_factory):
    """Our tokenizer, and that of `transformers` from the files."""
    ours = trained if request.param == "sentencepiece" else tokenizer.ByteTokenizer()
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer_files.write(renderer.Chat(ours, "plain"), folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


@hypothesis.given(text=TEXT)
@hypothesis.settings(max_examples=500)
def test_ids_are_the_same(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert theirs.encode(text, split_special_tokens=True) == ids
    assert theirs.decode(ids) == ours.decode(ids)
    if not any(mark in text for mark in MARKS):
        assert theirs.encode(text) == ids


def test_markers_and_the_end_are_known(pair):
    ours, theirs = pair
    assert len(theirs) == ours.vocab_size
    assert theirs.eos_token_id == ours.stop_id
    markers = theirs.convert_tokens_to_ids([tokenizer.TURN_START, tokenizer.TURN_END])
    assert markers == [ours.start_id, ours.stop_id]


@pytest.mark.parametrize("frame", FRAMES)
@hypothesis.given(
    turns=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), rules=TEXT
)
def test_the_template_renders_the_frame(pair, tmp_path_factory, frame, turns, rules):
    ours, theirs = pair
    framed = renderer.Chat(ours, frame)
    messages = [
        message
        if not any(m in message.text for m in MARKS)
        else renderer.Message(message.role, "go")
        for message in framed.episode(rules, turns, "")
    ]
    folder = tmp_path_factory.mktemp("template")
    theirs.save_pretrained(folder)
    tokenizer_files.write_template(framed, folder)
    source = (folder / tokenizer_files.TEMPLATE).read_text("utf-8")
    for count in range(len(messages)):
        if messages[count].role != "assistant":
            continue
        plain = [{"role": m.role, "content": m.text} for m in messages[:count]]
        text = theirs.apply_chat_template(
            plain, chat_template=source, add_generation_prompt=True, tokenize=False
        )
        assert theirs.encode(text) == framed.context(messages[:count])


def test_a_conversation_that_the_policy_never_saw_is_refused_by_the_template(pair):
    with pytest.raises(Exception, match="no assistant message after the start"):
        pair[1].apply_chat_template(
            [{"role": "assistant", "content": "go"}], tokenize=False
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unigram"}, "model_type is 'bpe'"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix is off"),
        ({"normalization_rule_name": "nmt_nfkc"}, "'identity'"),
        ({"byte_fallback": False}, "byte_fallback is on"),
        ({"user_defined_symbols": ["craft", "\n"]}, "user-defined symbols"),
    ],
)
def test_models_without_an_equal_are_refused(tmp_path, changes, message):
    output = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\n"],
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.split("\n")),
        model_writer=output,
        vocab_size=320,
        hard_vocab_limit=False,
        control_symbols=[tokenizer.TURN_START, tokenizer.TURN_END],
        minloglevel=2,
        **settings | changes,
    )
    given = tokenizer.SentencePieceTokenizer(output.getvalue())
    with pytest.raises(errors.ConfigError, match=message):
        tokenizer_files.write(renderer.Chat(given, "bare"), tmp_path)
