"""A judge behind a server: retries, failures of all kinds, and a key that stays secret."""

import threading
import time

import pytest
from judge_stub import say, serve

from agentrl import errors
from agentrl.judging import judge, judge_prompt

KEY = "sk-very-secret-123"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(judge, "_PAUSE_S", 0.01)


def make(url, **options):
    return judge.Judge(url, "small", **{"timeout_s": 10.0, **options})


def in_turn(*said):
    """A judge that gives these answers, the last one for ever."""
    left = list(said)
    return lambda messages: left.pop(0) if len(left) > 1 else left[0]


def test_a_request_is_what_servers_expect():
    with serve(lambda _: say("fabrication", why="made up")) as stub:
        verdict = make(stub.url + "/", key=f" {KEY}\n").ask("a transcript")
    assert verdict == judge.Verdict(("fabrication",), "made up")
    assert stub.paths == ["/v1/chat/completions"]
    assert stub.bodies == [
        {
            "model": "small",
            "messages": [
                {"role": "system", "content": judge_prompt.INSTRUCTIONS},
                {"role": "user", "content": "a transcript"},
            ],
            "temperature": 0,
            "max_tokens": 2000,
        }
    ]
    assert stub.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_no_header_is_sent():
    with serve(lambda _: say("other")) as stub:
        make(stub.url).ask("x")
    assert "Authorization" not in stub.headers[0]


def test_an_answer_of_no_use_gets_one_more_try():
    with serve(in_turn("Well...", say("other"))) as stub:
        assert make(stub.url).ask("x").tags == ("other",)
    first, second = (body["messages"] for body in stub.bodies)
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": "Well..."}
    assert "no JSON object" in second[3]["content"]


def test_a_second_answer_of_no_use_counts_as_none():
    with serve(in_turn("Well...", say("laziness"), say("other"))) as stub:
        verdict = make(stub.url).ask("x")
    assert len(stub.bodies) == 2 and verdict.tags == ()
    assert verdict.problem.startswith("there is no tag 'laziness'")


@pytest.mark.parametrize("content", [None, [{"type": "text"}], ""])
def test_no_text_is_an_answer_of_no_use(content):
    with serve(lambda _: content) as stub:
        assert "no JSON object" in make(stub.url).ask("x").problem


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_stumbles_is_asked_again(status):
    with serve(in_turn((status, "busy"), (status, "busy"), say("other"))) as stub:
        assert make(stub.url).ask("x").tags == ("other",)
    assert len(stub.bodies) == 3


@pytest.mark.parametrize(
    ("said", "message", "requests"),
    [
        ((500, "oops"), r"3 tries\): status 500, 'oops'. Is the server running", 3),
        ((401, "no"), r"status 401, 'no'. Set OPENAI_API_KEY to a key", 1),
        ((404, "no"), r"status 404, 'no'. Is --model=small one of those", 1),
        ((307, "there"), r"status 307", 1),
        ((200, "<html>"), r"OpenAI-compatible .*JSONDecodeError in '<html>'", 1),
        ((200, '{"choices": []}'), r"OpenAI-compatible .*IndexError", 1),
        ((200, '{"choices": [{"message": 3}]}'), r"OpenAI-compatible", 1),
        ((200, "[" * 100_000), r"OpenAI-compatible", 1),
    ],
)
def test_failures_of_the_server_are_told(said, message, requests):
    with serve(lambda _: said) as stub, pytest.raises(judge.JudgeError, match=message):
        make(stub.url).ask("x")
    assert len(stub.bodies) == requests


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_the_server_does_not_take_is_no_failure(status):
    with serve(lambda _: (status, "too long")) as stub:
        verdict = make(stub.url).ask("x")
    assert verdict == judge.Verdict((), problem=f"status {status}, 'too long'")


def test_a_server_that_hangs_or_is_not_there():
    leave = threading.Event()
    with serve(lambda _: leave.wait(60) and "") as stub:
        with pytest.raises(judge.JudgeError, match=r"no complete reply within 0\.1 s"):
            make(stub.url, timeout_s=0.1).ask("x")
        leave.set()
        url = stub.url
    with pytest.raises(judge.JudgeError, match="refused"):
        make(url).ask("x")


@pytest.mark.parametrize(
    "said",
    [
        lambda key: (401, f"Bearer {key} is wrong"),
        lambda key: (500, f"headers: {key}"),
        lambda key: (200, f"<{key}>"),
    ],
)
def test_a_server_that_repeats_the_key_does_not_make_it_known(said):
    with serve(lambda _: said(KEY)) as stub, pytest.raises(judge.JudgeError) as caught:
        make(stub.url, key=KEY).ask("x")
    assert KEY not in str(caught.value) and "[key]" in str(caught.value)


def test_nor_does_a_judge_that_repeats_it():
    for said in (say("other", why=KEY), f"Well, {KEY}", (400, KEY)):
        with serve(lambda _, said=said: said) as stub:
            verdict = make(stub.url, key=KEY).ask("x")
        assert KEY not in str(verdict) and "[key]" in str(verdict)


@pytest.mark.parametrize("key", ["a\nb", "a\r\nHost: evil", "schl\xfcssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key):
    with pytest.raises(errors.ConfigError, match="OPENAI_API_KEY") as caught:
        make("http://127.0.0.1:1/v1", key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("127.0.0.1:8000", "no address"),
        ("ftp://host/v1", "no address"),
        ("http://host:port/v1", "no address"),
        ("http://[::1/v1", "no address"),
        ("http://me:secret@host/v1", "give the address alone"),
        ("http://host/v1?key=secret", "give the address alone"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(server, message):
    with pytest.raises(errors.ConfigError, match=message):
        make(server)


def test_the_path_may_be_given_whole():
    known = make("http://host/v1").identity
    assert make("http://host/v1/chat/completions").identity == known
    assert make("http://host/v1", max_tokens=7).identity != known


def test_several_requests_are_in_flight_and_no_more():
    barrier = threading.Barrier(3)

    def wait_for_others(messages):
        barrier.wait(30)
        return say("other")

    questions = {str(n): f"question {n}" for n in range(6)}
    with serve(wait_for_others) as stub:
        found = dict(judge.ask_all(make(stub.url), questions, concurrency=3))
    assert found.keys() == questions.keys() and stub.most_in_flight == 3
    assert sorted(stub.questions) == sorted(questions.values())


def test_a_failure_ends_the_others_and_keeps_what_was_in_flight():
    failing, refused = threading.Event(), threading.Event()

    def answer(messages):
        if messages[1]["content"] == "bad":
            failing.wait(30)
            refused.set()
            return 401, "no"
        failing.set()
        refused.wait(30)
        time.sleep(0.05)
        return say("other")

    questions = {"good": "good", "bad": "bad", **{str(n): "late" for n in range(50)}}
    found = []
    with serve(answer) as stub, pytest.raises(judge.JudgeError, match="401"):
        for id_, _ in judge.ask_all(make(stub.url), questions, concurrency=2):
            found.append(id_)
    assert "good" in found and len(stub.bodies) < 10


def test_nobody_waits_for_another_try_after_a_failure(monkeypatch):
    monkeypatch.setattr(judge, "_PAUSE_S", 60.0)

    def answer(messages):
        return (401, "no") if messages[1]["content"] == "bad" else (500, "oops")

    start = time.monotonic()
    questions = {"slow": "slow", "bad": "bad"}
    with serve(answer) as stub, pytest.raises(judge.JudgeError, match="401"):
        list(judge.ask_all(make(stub.url), questions, concurrency=2))
    assert time.monotonic() - start < 30
