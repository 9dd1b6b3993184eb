import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl import errors
from agentrl.chat import tokenizer

TEXTS = [
    "Crafting commands:\ncraft 4 oak planks using 1 oak logs\n\nGoal: craft oak door.",
    "Thought:\nI need planks.\n\nAction:\nget 1 oak logs",
    'Available actions: ["turn left", "turn right", "go to red ball 1"]',
] * 4


@pytest.fixture(scope="module")
def trained():
    return tokenizer.SentencePieceTokenizer.train(TEXTS, 340)


@pytest.fixture(params=["sentencepiece", "bytes"], scope="module")
def any_tokenizer(request, trained):
    return trained if request.param == "sentencepiece" else tokenizer.ByteTokenizer()


@hypothesis.given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_text_survives_the_round_trip(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    assert all(0 <= i < any_tokenizer.vocab_size for i in ids)
    assert any_tokenizer.decode(ids) == text


@pytest.mark.parametrize("marker", [tokenizer.TURN_START, tokenizer.TURN_END, "<pad>"])
def test_text_never_becomes_a_marker(any_tokenizer, marker):
    ids = any_tokenizer.encode(f"a {marker} b")
    assert not {any_tokenizer.start_id, any_tokenizer.stop_id} & set(ids)
    assert any_tokenizer.decode(ids) == f"a {marker} b"


def test_markers_are_left_out_of_decoded_text(any_tokenizer):
    ids = [any_tokenizer.start_id, *any_tokenizer.encode("go"), any_tokenizer.stop_id]
    assert any_tokenizer.decode(ids) == "go"


def test_training_twice_gives_the_same_model(trained, tmp_path):
    again = tokenizer.SentencePieceTokenizer.train(TEXTS, 340)
    for name, model in (("a", trained), ("b", again)):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
    first, second = ((tmp_path / n / "tokenizer.model").read_bytes() for n in "ab")
    assert first == second


def test_saved_model_loads(trained, tmp_path):
    trained.save(tmp_path)
    loaded = tokenizer.load("sentencepiece", tmp_path)
    assert loaded.encode(TEXTS[0]) == trained.encode(TEXTS[0])


def test_missing_model_is_named(tmp_path):
    with pytest.raises(errors.ConfigError, match="no SentencePiece model at"):
        tokenizer.load("sentencepiece", tmp_path)


def test_texts_without_a_line_are_told():
    with pytest.raises(errors.ConfigError, match="hold no text") as refused:
        tokenizer.SentencePieceTokenizer.train(["", "\n"], 340)
    assert ".cc" not in str(refused.value)


@pytest.mark.parametrize("size, bound", [(100, "at least"), (5000, "at most")])
def test_a_size_that_cannot_be_had_is_told_with_one_that_can(size, bound):
    with pytest.raises(errors.ConfigError, match=f"vocab_size.*{bound}") as refused:
        tokenizer.SentencePieceTokenizer.train(TEXTS, size)
    told = str(refused.value)
    assert "coverage" not in told and ".cc" not in told
    possible = int(told.rpartition(f"{bound} ")[2].rstrip("."))
    assert (
        tokenizer.SentencePieceTokenizer.train(TEXTS, possible).vocab_size == possible
    )
