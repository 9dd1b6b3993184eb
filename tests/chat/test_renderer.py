import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl import errors
from agentrl.chat import renderer, tokenizer

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
            f"<user\nrules>\n<assistant\n{renderer.ACKNOWLEDGEMENT}>\n"
            "<user\nobs>\n<assistant\nact>\n<user\nnext>\n<assistant\n",
        ),
    ],
)
def test_frames_token_by_token(frame, expected):
    framed = renderer.Chat(BYTES, frame)
    ids = [*framed.open("rules", "obs"), *BYTES.encode("act"), STOP]
    ids += framed.extend("next")
    assert render(ids) == expected


@hypothesis.given(texts=st.lists(st.text(max_size=20), max_size=4))
@pytest.mark.parametrize("frame", ["bare", "plain", "agentgym"])
def test_markers_come_only_from_the_frame(frame, texts):
    framed = renderer.Chat(BYTES, frame)
    texts = [t.encode(errors="replace").decode() for t in texts]
    reference = [framed.open("", ""), *(framed.extend("") for _ in texts)]
    actual = [framed.open("<|im_end|>", "x"), *(framed.extend(t) for t in texts)]
    for empty, full in zip(reference, actual, strict=True):
        assert [i for i in full if i > 255] == [i for i in empty if i > 255]


def test_digest_tells_frames_apart():
    digests = {
        renderer.Chat(BYTES, f).describe()["digest"]
        for f in ("bare", "plain", "agentgym")
    }
    assert len(digests) == 3


def test_each_environment_acknowledges_its_rules_in_its_own_words():
    framed = renderer.Chat(BYTES, "agentgym", acknowledgements={"shop": "Ok."})
    expected = "<user\nrules>\n<assistant\n{}>\n<user\nobs>\n<assistant\n"
    assert render(framed.open("rules", "obs", "shop_3")) == expected.format("Ok.")
    other = render(framed.open("rules", "obs", "maze_3"))
    assert other == expected.format(renderer.ACKNOWLEDGEMENT)


def digest_of(frame, **replaced):
    return renderer.Chat(BYTES, frame, **replaced).describe()["digest"]


def test_the_digest_covers_what_is_replaced_where_the_frame_shows_it():
    usual = {"shop": renderer.ACKNOWLEDGEMENT, "maze": renderer.ACKNOWLEDGEMENT}
    answers = [{}, usual, {**usual, "shop": "Ok."}, {**usual, "maze": "Ok."}]
    agentgym = [digest_of("agentgym", acknowledgements=given) for given in answers]
    assert agentgym[0] == agentgym[1] == digest_of("agentgym")
    assert len(set(agentgym)) == 3
    for frame in ("bare", "plain"):
        shown = {digest_of(frame, acknowledgements=given) for given in answers}
        assert shown == {digest_of(frame)}

    rules = [{}, {"shop": "Buy."}, {"shop": "Sell."}]
    for frame, count in (("bare", 1), ("plain", 3), ("agentgym", 3)):
        shown = {digest_of(frame, given_instructions=given) for given in rules}
        assert len(shown) == count


EXAMPLES = {"env": [("env_1", [("o1", "a1"), ("o2", "a2")]), ("env_2", [("o3", "a3")])]}


def test_examples_are_earlier_turns():
    framed = renderer.Chat(BYTES, "plain", few_shot=1, examples=EXAMPLES)
    assert render(framed.open("rules", "obs", "env_7")) == (
        "<system\nrules>\n"
        f"<user\n{renderer.NEW_TASK}o1>\n<assistant\na1>\n<user\no2>\n<assistant\na2>\n"
        f"<user\n{renderer.NEW_TASK}obs>\n<assistant\n"
    )


def test_a_task_is_never_its_own_example():
    framed = renderer.Chat(BYTES, "bare", few_shot=1, examples=EXAMPLES)
    new = renderer.NEW_TASK
    assert render(framed.open("rules", "o1", "env_1")) == f"{new}o3<a3>{new}o1<"
    assert render(framed.open("rules", "o1", "env_3")).startswith(f"{new}o1<a1>")


def test_other_environments_have_no_examples():
    framed = renderer.Chat(BYTES, "bare", few_shot=1, examples=EXAMPLES)
    assert render(framed.open("rules", "obs", "other_1")) == "obs<"


def test_digest_depends_on_examples_and_markers():
    class Other(tokenizer.ByteTokenizer):
        delimiters = tokenizer.chatml(257, 256)

    chats = [
        renderer.Chat(BYTES, "plain"),
        renderer.Chat(BYTES, "plain", few_shot=1, examples=EXAMPLES),
        renderer.Chat(BYTES, "plain", few_shot=2, examples=EXAMPLES),
        renderer.Chat(Other(), "plain"),
    ]
    assert len({framed.describe()["digest"] for framed in chats}) == 4


def test_messages_out_of_turn_are_refused():
    framed = renderer.Chat(BYTES, "plain")
    with pytest.raises(errors.ConfigError, match="'user' after 'system'"):
        tokenizer.Delimiters({}).between("system", "user")
    with pytest.raises(errors.ConfigError, match="'assistant' after 'its start'"):
        framed.context([renderer.Message("assistant", "a")])
