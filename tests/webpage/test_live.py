"""The live page's server: what it tells, to whom, and that it follows a run."""

import gzip
import http.client
import json
import os
import shutil
import signal
import sys
import threading

import commands
import fake_run
import pytest

from agentrl.live import server, watched
from agentrl.reporting import metrics
from agentrl.statistics import results
from agentrl.transcripts import episodes
from agentrl.webpage import assets, follow, run_data


class Client:
    """Asks a server as the page does."""

    def __init__(self, served):
        self.served = served
        self.port = served.server_address[1]
        self.have = ""

    def get(self, path, *, token=True, host=None, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        if token:
            headers["Authorization"] = f"Bearer {self.served.token}"
        connection.request(
            method, path, headers=headers | ({"Host": host} if host else {})
        )
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        return answer, content

    def json(self, path):
        answer, content = self.get(path)
        assert answer.status == 200, content
        return json.loads(content)

    def changes(self):
        """What has changed since the last call: names of sections, and their values."""
        state = self.json(f"/api/state?have={self.have}")
        self.have = state["have"]
        return state["runs"][0]


@pytest.fixture
def serve():
    running = []

    def start(*workdirs):
        runs = watched.Watched([run_data.RunData(workdir) for workdir in workdirs])
        served = server.Server(runs)
        for run in runs._runs:  # by hand: no waiting for the background
            runs._refresh(run)
        runs._join()
        threading.Thread(target=served.serve_forever, daemon=True).start()
        running.append(served)
        return Client(served)

    yield start
    for served in running:
        served.shutdown()
        served.server_close()


@pytest.fixture
def run(tmp_path):
    fake_run.write_run(tmp_path / "run")
    return tmp_path / "run"


def refresh(client):
    for one in client.served.runs._runs:
        while client.served.runs._refresh(one):
            pass


def test_only_what_has_changed_is_sent_while_a_run_grows(serve, tmp_path):
    workdir, settings = tmp_path / "run", fake_run.make_settings()
    fake_run.write_run(workdir, settings)
    kept = {path: path.read_bytes() for path in (workdir / results.FOLDER).iterdir()}
    for path in [*kept, workdir / metrics.FILE]:
        path.unlink()
    shutil.rmtree(workdir / episodes.FOLDER)
    fake_run.write_iterations(workdir, settings, last=9)
    client = serve(workdir)

    first = client.changes()
    assert set(first) == set(run_data.SECTIONS)
    assert first["results"] is None
    assert [stage["done"] for stage in first["overview"]["stages"]] == [8, 1, 0]
    assert client.changes() == {}
    fake_run.write_iterations(workdir, settings, first=9, last=10)
    refresh(client)
    second = client.changes()
    assert set(second) >= {"overview", "curves", "episodes"}
    assert "results" not in second
    assert second["episodes"]["total"] == first["episodes"]["total"] + 4
    for path, content in kept.items():
        path.write_bytes(content)
    refresh(client)
    assert set(client.changes()) == {"results"}


def test_episodes_come_in_parts_as_they_are_stored(serve, run):
    client = serve(run)
    refresh(client)

    part = client.json("/api/index?run=0&first=0&count=90")
    generation = part["generation"]
    rest = client.json(
        f"/api/index?run=0&first=90&count=90&generation={generation}"
        f"&items={len(part['items'])}"
    )
    assert (part["count"], rest["count"], rest["first"]) == (90, 6, 90)
    assert rest["items"] == []
    got = client.json(f"/api/episodes?run=0&first=94&count=9&generation={generation}")
    lines = (run / episodes.FOLDER / "both.jsonl").read_text().splitlines()
    assert got == [json.loads(line) for line in lines[-2:]]


def test_a_resumed_run_that_cuts_its_files_is_read_anew(serve, run):
    settings = fake_run.make_settings()
    client = serve(run)
    refresh(client)
    client.changes()
    before = client.json("/api/index?run=0&count=9")["generation"]

    fake_run.write_iterations(run, settings, first=20, last=21)  # cuts 20 to 23
    refresh(client)

    changed = client.changes()
    assert [stage["done"] for stage in changed["overview"]["stages"]] == [8, 8, 5]
    assert changed["episodes"]["total"] == 8 * 4 + 5 * 8
    after = client.json(f"/api/index?run=0&first=50&count=9&generation={before}")
    assert after["generation"] > before and after["first"] == 0
    answer, content = client.get(f"/api/episodes?run=0&count=1&generation={before}")
    assert answer.status == 409 and b"resumed meanwhile" in content


def test_a_changed_configuration_begins_anew(serve, run):
    client = serve(run)
    refresh(client)
    client.changes()
    before = client.json("/api/index?run=0&count=1")["generation"]
    described = json.loads((run / "run.json").read_text())
    described["config"]["name"] = described["name"] = "another"
    (run / "run.json").write_text(json.dumps(described))

    refresh(client)

    assert client.changes()["overview"]["name"] == "another"
    assert client.json("/api/index?run=0&count=1")["generation"] > before


def test_damage_is_told_on_the_page_and_the_rest_goes_on(serve, run):
    client = serve(run)
    client.changes()
    (run / results.FOLDER / "x.json").write_text("{")
    fake_run.write_iterations(run, fake_run.make_settings(), first=23)
    with (run / episodes.FOLDER / "both.jsonl").open("a") as file:
        file.write("oops\n")
    for _ in range(2):
        refresh(client)
    problem = client.changes()["overview"]["problem"]
    assert "x.json is not the result of an evaluation" in problem
    assert "both.jsonl:65 is not JSON" in problem
    assert client.changes() == {}


def test_strangers_learn_nothing(serve, run):
    client = serve(run)
    for path in ("/api/state", "/api/index?run=0", "/api/episodes?run=0"):
        answer, content = client.get(path, token=False)
        assert answer.status == 401 and len(content) < 100
        answer, _ = client.get(path, token=False, Authorization="Bearer \xe9")
        assert answer.status == 401
    for host in ("evil.example", f"evil.example:{client.port}", "127.0.0.1.evil.example",
                 "localhost.evil.example", "[::1].evil.example", ""):  # fmt: skip
        answer, _ = client.get("/api/state", host=host or " ")
        assert answer.status == 403, host
    for host in ("localhost", "127.0.0.1:9999", "[::1]:80", "LOCALHOST:1"):
        answer, _ = client.get("/api/state", host=host)
        assert answer.status == 200, host
    for path in ("/static/../report.py", "/static/%2e%2e/report.py", "/run.json",
                 "/static//etc/passwd"):  # fmt: skip
        answer, _ = client.get(path)
        assert answer.status == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer, _ = client.get("/api/state", method=method)
        assert answer.status == 501
    for path in ("/api/index?run=x", "/api/episodes?run=0&first=1e9"):
        answer, _ = client.get(path)
        assert answer.status == 400, path
    for path in ("/api/index?run=7", "/api/secrets"):
        answer, _ = client.get(path)
        assert answer.status == 409, path
    assert client.json("/api/index?run=-3&first=-5&count=-1")["count"] == 0


def test_a_port_that_is_taken_is_refused(serve, run):
    client = serve(run)
    with pytest.raises(OSError, match="in use"):
        server.Server(client.served.runs, port=client.port)


def test_pages_allow_their_own_files_only(serve, run):
    client = serve(run)
    answer, content = client.get("/", token=False)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy and "*" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert str(run).encode() not in content
    for name in (*assets.STYLES, *assets.SCRIPTS):
        assert f"static/{name}".encode() in content
        answer, text = client.get(f"/static/{name}", token=False)
        assert answer.status == 200 and text.decode() == assets.read(name)


def test_a_followed_file_that_is_replaced_is_noticed(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    followed = follow.FollowedFile(path)
    assert [line.record["a"] for line in followed.read(1 << 20)] == [1, 2]
    assert followed.at_end
    with path.open("a") as file:
        file.write(': 3}\n{"a": 4}\n')
    (third,) = list(followed.read(1))
    assert third.record["a"] == 3 and not followed.at_end
    os.truncate(path, 9)
    with path.open("a") as file:
        file.write('{"a": 7}\n{"a": 8}\n{"a": 9}\n')  # longer than it was, but another
    with pytest.raises(follow.FileWasCut):
        list(followed.read(1 << 20))
    path.unlink()
    with pytest.raises(follow.FileWasCut):
        list(followed.read(1 << 20))


def test_command_serves_until_it_is_interrupted(run):
    process = commands.Process(
        [sys.executable, "-m", "agentrl.launch.watch", f"--workdir={run}", "--port=0"]
    )
    try:
        url = process.stdout.readline().split()[1]
        port, token = url.split(":")[2].split("/?token=")
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
        connection.request(
            "GET", "/api/state", headers={"Authorization": f"Bearer {token}"}
        )
        assert json.loads(connection.getresponse().read())["runs"][0]["overview"]
        connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in stderr
