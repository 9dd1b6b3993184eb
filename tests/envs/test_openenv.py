"""OpenEnv in both directions, against its own client and server where it is installed."""

import contextlib
import http.server
import importlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from agentrl.envs import base, http_calls, registry, tasks
from agentrl.envs.adapters import openenv
from agentrl.envs.adapters.openenv import server

ROOT = pathlib.Path(__file__).parents[2]
TEXT_ACTION = {"message": {"type": "string"}, "metadata": {"type": "object"}}


def make(address, **options):
    return openenv.OpenEnv(base.EnvConfig(options={"server": address, **options}))


@contextlib.contextmanager
def serving(replies):
    """An HTTP server that answers GET requests by path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = json.dumps(replies.get(self.path, {})).encode()
            self.send_response(200 if self.path in replies else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()


def describe(properties):
    return {"/health": {"status": "healthy"}, "/schema": {"action": properties}}


def test_a_server_is_asked_for_its_actions_when_an_environment_is_made():
    with serving(describe({"properties": TEXT_ACTION})) as address:
        assert make(address)._field == "message"
    two = {**TEXT_ACTION, "note": {"type": "string"}}
    with serving(describe({"properties": two})) as address:
        assert make(address, action_field="note")._field == "note"
        with pytest.raises(base.EnvConfigError, match="option action_field"):
            make(address)
        with pytest.raises(base.EnvConfigError, match="option action_field"):
            make(address, action_field="noet")


def test_what_is_no_server_of_openenv_is_told_before_anything_is_played():
    with pytest.raises(openenv.OpenEnvError, match="Is it running"):
        make("http://127.0.0.1:9")
    with serving({}) as address, pytest.raises(openenv.OpenEnvError, match="404"):
        make(address)


@pytest.mark.parametrize(
    "options",
    [
        {"server": "localhost"},
        {"timeout_s": 0},
        {"num_train": 1.5},
        {"whole_answer": "yes"},
        {"action_field": 3},
    ],
)
def test_options_that_cannot_work_are_told(options):
    (name,) = options
    given = {"server": "http://127.0.0.1:9", **options}
    with pytest.raises(base.EnvConfigError, match=f"option {name} = "):
        openenv.OpenEnv(base.EnvConfig(options=given))


def test_a_session_takes_tasks_by_seed_index_and_id():
    session = server.Session("textcraft", base.EnvConfig())
    train = tasks.select_tasks("textcraft", "train", base.EnvConfig()).item_ids
    session.start(seed=3, split="train", index=None, item_id="")
    assert session.item_id == train[3]
    session.start(seed=len(train) + 1, split="train", index=None, item_id="")
    assert session.item_id == train[1]
    session.start(seed=None, split="test", index=0, item_id="")
    first = registry.make("textcraft").reset(session.item_id)
    assert session.start(0, "train", None, session.item_id) == first
    with pytest.raises(base.EnvConfigError, match="no split 'dev'"):
        session.start(0, "dev", None, "")
    while not session.step("Action: inventory").done:
        pass
    with pytest.raises(base.CallOrderError, match="reset the environment first"):
        session.step("Action: inventory")


@pytest.fixture
def served():
    """Address of a server with our TextCraft, two sessions at most."""
    pytest.importorskip("openenv", reason="extra openenv")
    uvicorn = importlib.import_module("uvicorn")
    app = server.make_app("textcraft", base.EnvConfig(), sessions=2)
    settings = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
    running = uvicorn.Server(settings)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
    (socket,) = running.servers[0].sockets
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    running.should_exit = True
    thread.join()


def test_our_client_plays_our_server_as_the_environment_itself(served):
    native = registry.make("textcraft")
    ids = tasks.select_tasks("textcraft", "train", base.EnvConfig()).item_ids
    env = make(served, whole_answer=True, observation_field="text")
    expected = native.reset(ids[7])
    assert env.reset("openenv_7") == expected
    for answer in ("Action: inventory", "nonsense", "Action: get 1 stick"):
        mine, theirs = native.step(answer), env.step(answer)
        assert (theirs.observation, theirs.reward) == (mine.observation, mine.reward)
    env.close()


def test_a_server_without_a_free_session_is_told(served):
    open_ones = [make(served) for _ in range(2)]
    for env in open_ones:
        env.reset("openenv_0")
    with pytest.raises(openenv.OpenEnvError, match=r"num_slots of them|capacity"):
        make(served).reset("openenv_0")
    for env in open_ones:
        env.close()


@pytest.fixture
def echo_server(tmp_path):
    """Address of the echo environment that `openenv init` writes, for many sessions."""
    pytest.importorskip("openenv", reason="extra openenv")
    openenv_command = pathlib.Path(sys.executable).with_name("openenv")
    subprocess.run([openenv_command, "init", "echo_env"], cwd=tmp_path, check=True)
    app = tmp_path / "echo_env" / "server" / "app.py"
    one, many = "max_concurrent_envs=1,", "max_concurrent_envs=32,"
    source = app.read_text()
    assert one in source
    app.write_text(source.replace(one, many))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server_command = [sys.executable, "-m", "uvicorn", "echo_env.server.app:app"]
    running = subprocess.Popen([*server_command, f"--port={port}"], cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert running.poll() is None
            with contextlib.suppress(http_calls.CallError):
                http_calls.exchange("GET", f"{address}/health", "", timeout_s=2.0)
                break
            time.sleep(0.2)
        yield address
    finally:
        running.terminate()
        running.wait()


@pytest.mark.slow
def test_training_on_a_published_environment(echo_server, tmp_path):
    command = [
        *(sys.executable, "-m", "agentrl.launch.train"),
        f"--config={ROOT / 'tests' / 'faults' / 'served.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--set=environments.openenv.options.num_test=8",
        "--set=environments.openenv.options.whole_answer=True",
        "--set=stages.grpo.rollout.cut_actions=play",
        "--set=environments.openenv.max_turns=3",
    ]
    variables = {
        "AGENTRL_ENVS": "openenv=agentrl.envs.adapters.openenv",
        "SERVER": echo_server,
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    iterations = [json.loads(line) for line in lines]
    assert len(iterations) == 2
    # A tenth of a point for each letter that is sent.
    assert all(values["rollout/return"] > 0 for values in iterations)
    assert all(values["optimizer/grad_norm"] > 0 for values in iterations)
    assert list((tmp_path / "run" / "evaluations").glob("grpo.openenv.*.json"))
