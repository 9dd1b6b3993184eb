"""A search by a server: its protocol, its failures, and what is kept of its replies."""

import json
import threading

import json_server
import pytest

from agentrl.envs import base, filecache, registry
from agentrl.envs.searchqa import dataset, retriever

DOCS = [
    {"id": str(n), "contents": f'"Title {n}"\nText {n} on it.'} for n in range(1, 6)
]


class Stub:
    """A server that speaks Search-R1's protocol, or not, as `fault` says."""

    def __init__(self):
        self.asked = []
        self.arrived = threading.Condition()
        self.closed = threading.Event()
        self.fault = ""
        self.scores = True
        self.server = json_server.start(self.answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path, headers, body):
        del headers
        with self.arrived:
            self.asked.append(body)
            self.arrived.notify_all()
        if path != "/retrieve":
            return 404, "{}"
        if self.fault == "hang":
            self.closed.wait()
        if self.fault == "crash" or (self.fault == "once" and len(self.asked) == 1):
            return 500, "oops"
        if self.fault == "refuse":
            return 422, "no such field"
        if self.fault == "nonsense":
            return 200, '{"result": [{"text": 1}]}'
        docs = DOCS[: body["topk"]]
        if self.scores:
            docs = [{"document": doc, "score": 1.0} for doc in docs]
        return 200, json.dumps({"result": [docs]})

    def wait_for_requests(self, count):
        """Waits until so many requests have come; a client may give up before they do."""
        with self.arrived:
            self.arrived.wait_for(lambda: len(self.asked) >= count, timeout=60)

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def stub(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retriever, "_PAUSE_S", 0.01)
    dataset._load.cache_clear()
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def quiz(tmp_path):
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ann"}\n')
    return str(path)


def make(stub, **bounds):
    return retriever.Retriever(stub.url, **{"timeout_s": 5.0, "retries": 2, **bounds})


@pytest.mark.parametrize("profile", base.PROFILES)
def test_an_episode_is_played_with_a_server(stub, quiz, profile):
    options = {"retriever": stub.url + "/retrieve", "questions": quiz}
    env = registry.make("searchqa", base.EnvConfig(profile, options=options))
    env.reset("searchqa_0")
    result = env.step("<search> who is it </search>")
    shown = "Title {0}" if profile == "strict" else '"Title {0}"'
    docs = [f"Doc {n}(Title: {shown.format(n)}) Text {n} on it." for n in (1, 2, 3)]
    assert result.observation == f"<information>{chr(10).join(docs)}</information>"
    assert stub.asked == [{"queries": ["who is it"], "topk": 3, "return_scores": True}]
    assert env.step("<answer>Ann</answer>").info.success


def test_servers_that_return_no_scores_are_understood(stub):
    stub.scores = False
    assert [p.id for p in make(stub).search("who", 2)] == ["1", "2"]


def test_replies_are_kept_on_disk(stub):
    first = make(stub).search("who", 3)
    stub.fault = "crash"
    assert make(stub).search("who", 3) == first
    assert len(stub.asked) == 1
    with pytest.raises(retriever.RetrieverError):
        make(stub).search("who", 4)
    with pytest.raises(retriever.RetrieverError):
        make(stub).search("what", 3)


def test_a_failure_is_not_kept(stub):
    stub.fault = "crash"
    with pytest.raises(retriever.RetrieverError):
        make(stub).search("who", 3)
    stub.fault = ""
    assert len(make(stub).search("who", 3)) == 3


def test_a_server_is_asked_again(stub):
    stub.fault = "once"
    assert len(make(stub).search("who", 3)) == 3
    assert len(stub.asked) == 2


@pytest.mark.parametrize(
    "fault, message, tries",
    [
        ("crash", r"3 tries\): status 500, 'oops'\. Is the server running", 3),
        ("refuse", r"1 tries\): status 422, 'no such field'", 1),
        ("hang", r"3 tries\): no complete reply within 0.1 s", 3),
        ("nonsense", r"does not answer in the form of Search-R1's /retrieve", 1),
    ],
)
def test_faults_of_the_server_are_told(stub, fault, message, tries):
    stub.fault = fault
    with pytest.raises(retriever.RetrieverError, match=message):
        make(stub, timeout_s=0.1 if fault == "hang" else 5.0).search("who", 3)
    stub.wait_for_requests(tries)
    assert len(stub.asked) == tries


def test_a_damaged_file_of_replies_is_named(stub):
    make(stub).search("who", 3)
    (path,) = filecache.get_folder().glob("searchqa-retrieved-*.sqlite")
    path.write_bytes(b"x" * 5000)
    with pytest.raises(retriever.RetrieverError, match="delete the file"):
        make(stub).search("who", 3)


def test_the_panel_names_the_server(stub, quiz):
    options = {"retriever": stub.url, "questions": quiz}
    name = dataset.load(base.EnvConfig(options=options)).name
    assert name.startswith("quiz ") and name.endswith(f" on {stub.url}")
