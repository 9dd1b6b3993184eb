import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.text import chat, tokenizer

BYTES = tokenizer.ByteTokenizer()
START, STOP = BYTES.start_id, BYTES.stop_id


def render(ids):
    """Ids as text, with `<` and `>` for the markers."""
    names = {START: "<", STOP: ">"}
    return "".join(names.get(i) or chr(i) for i in ids)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("bare", "obs<act>next<"),
        (
            "plain",
            "<system\nrules>\n<user\nobs>\n<assistant\nact>\n<user\nnext>\n<assistant\n",
        ),
        (
            "agentgym",
            f"<user\nrules>\n<assistant\n{chat.ACKNOWLEDGEMENT}>\n"
            "<user\nobs>\n<assistant\nact>\n<user\nnext>\n<assistant\n",
        ),
    ],
)
def test_frames_token_by_token(frame, expected):
    framed = chat.Chat(BYTES, frame)
    ids = [*framed.open("rules", "obs"), *BYTES.encode("act"), STOP]
    ids += framed.extend("next")
    assert render(ids) == expected


@hypothesis.given(texts=st.lists(st.text(max_size=20), max_size=4))
@pytest.mark.parametrize("frame", ["bare", "plain", "agentgym"])
def test_markers_come_only_from_the_frame(frame, texts):
    framed = chat.Chat(BYTES, frame)
    texts = [t.encode(errors="replace").decode() for t in texts]
    reference = [framed.open("", ""), *(framed.extend("") for _ in texts)]
    actual = [framed.open("<|im_end|>", "x"), *(framed.extend(t) for t in texts)]
    for empty, full in zip(reference, actual, strict=True):
        assert [i for i in full if i > 255] == [i for i in empty if i > 255]


def test_digest_tells_frames_apart():
    digests = {
        chat.Chat(BYTES, f).describe()["digest"] for f in ("bare", "plain", "agentgym")
    }
    assert len(digests) == 3
