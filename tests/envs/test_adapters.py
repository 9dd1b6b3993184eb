"""Environments that others run: AgentGym servers, Gymnasium text environments.

The server here is ours and small, and as strict about requests as upstream's: a field
too few or too many is refused. Its game is the same under every name: `win k` solves
item k.
"""

import contextlib
import dataclasses
import http.server
import importlib
import json
import pathlib
import threading
import urllib.parse

import pytest

from agentrl.envs import base, checks, pool, registry, tasks
from agentrl.envs.adapters.agentgym import server

HERE = pathlib.Path(__file__).parent
NAMES = ("textcraft", "babyai", "alfworld", "webshop", "searchqa", "sciworld")


class Refused(Exception):
    """A request that upstream's server would refuse, with its status."""


@dataclasses.dataclass
class Game:
    """The state of all instances of one server."""

    name: str
    items: dict[int, int] = dataclasses.field(default_factory=dict)
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    fault: str = ""  # how the next steps go wrong
    release: threading.Event = dataclasses.field(default_factory=threading.Event)
    created: int = 0
    closed: list[int] = dataclasses.field(default_factory=list)

    def handle(self, method, path, body):
        if (method, path) == ("POST", "/create"):
            return self.create(body)
        instance = int(body.pop("env_idx" if self.is_new_style else "id"))
        if (method, path) == ("GET", "/observation") and self.name != "babyai":
            return self.observation(instance)
        if (method, path) == ("POST", "/reset"):
            return self.reset(instance, body)
        if (method, path) == ("POST", "/step"):
            return self.step(instance, **body)
        if (method, path) == ("POST", "/close") and self.is_new_style:
            self.closed.append(instance)
            return True
        raise Refused(404)

    @property
    def is_new_style(self):
        return self.name in ("webshop", "searchqa")

    def create(self, body):
        if body != ({"id": 0} if self.name == "searchqa" else {}):
            raise Refused(422)
        self.created += 1
        return self.created if self.is_new_style else {"id": self.created}

    def observation(self, instance):
        return f"Item {self.items[instance]}. \ud800"

    def reset(self, instance, body):
        field = {"alfworld": "game", "webshop": "session_id", "searchqa": "id"}
        item = body.pop(field.get(self.name, "data_idx"))
        if body != ({"world_type": "Text"} if self.name == "alfworld" else {}):
            raise Refused(422)
        if item >= 500:
            return {"error": "list index out of range"}
        self.items[instance], self.scores[instance] = item, 0.0
        text = self.observation(instance)
        if self.name == "webshop":
            return ["not what is to be shown", None]
        if self.name == "searchqa":
            return text
        reply = {"id": instance, "observation": text, "reward": 0, "done": False}
        if self.name == "sciworld":
            reply |= {"task_description": "Task."}
        return reply | self.actions()

    def actions(self):
        return {"available_actions": ["look", "win"]} if self.name == "alfworld" else {}

    def step(self, instance, action):
        if self.fault == "hang":
            self.release.wait()
        if self.fault == "crash":
            raise Refused(500)
        if self.fault == "nonsense":
            return {"weather": "fine"}
        won = f"win {self.items[instance]}" in action
        text = f"You said {action[:30]!r}."
        if self.name == "searchqa" and "<answer>" in action and not won:
            text = "Sorry, your answer is incorrect. Please try again."
        reward = {"babyai": 0.25, "sciworld": 60}.get(self.name, 1.0) if won else 0
        if self.name == "sciworld" and action == "focus on the wrong thing":
            reward = -100 - self.scores[instance]
        self.scores[instance] += reward
        done = won and self.name not in ("babyai", "sciworld")
        done = done or abs(self.scores[instance]) >= 100
        reply = {"reward": reward, "done": done, "score": self.scores[instance]}
        field = "state" if self.name == "webshop" else "observation"
        return reply | {field: text} | self.actions()


class Handler(http.server.BaseHTTPRequestHandler):
    game: Game

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        url = urllib.parse.urlsplit(self.path)
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(text or "{}") | dict(urllib.parse.parse_qsl(url.query))
        try:
            status, reply = 200, self.game.handle(self.command, url.path, body)
        except Refused as refused:
            status, reply = refused.args[0], {"detail": "refused"}
        with contextlib.suppress(OSError):  # a client that no longer waits
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture(params=NAMES)
def game(request):
    return Game(request.param)


@pytest.fixture
def options(game, tmp_path, monkeypatch):
    """A running server, registered in place of the native environment."""
    handler = type("Bound", (Handler,), {"game": game})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    module = f"agentrl.envs.adapters.agentgym.{game.name}"
    monkeypatch.setitem(registry._MODULES, game.name, module)
    monkeypatch.setenv("AGENTRL_ENVS", f"{game.name}={module}")
    registry.get_spec.cache_clear()
    options = {"server": f"http://127.0.0.1:{server.server_port}", "timeout_s": 20.0}
    for split, numbers in (("train", range(20, 40)), ("test", range(7))):
        path = tmp_path / f"{game.name}_{split}.json"
        path.write_text(json.dumps([{"item_id": f"{game.name}_{k}"} for k in numbers]))
        options[f"{split}_items"] = str(path)
    yield options
    game.release.set()
    server.shutdown()
    thread.join()
    server.server_close()
    registry.get_spec.cache_clear()


def answer(name, text):
    if name == "searchqa":
        return f"<think>I know.</think> <answer>{text}</answer>"
    return f"Thought:\nI know.\n\nAction:\n{text}"


def test_an_episode_is_played_and_won(game, options):
    env = registry.make(game.name, base.EnvConfig(options=options))

    first = env.reset(f"{game.name}_3")
    middle = env.step(answer(game.name, "look").replace("answer>", "search>"))
    last = env.step(answer(game.name, "win 3"))

    expected = "Task.\nItem 3. ?" if game.name == "sciworld" else "Item 3. ?"
    listed = "\nAVAILABLE ACTIONS: look,win" if game.name == "alfworld" else ""
    assert first == expected + listed
    assert not middle.done and middle.reward == 0 and not middle.info.success
    assert "look" in middle.info.parsed_action
    if game.name == "sciworld":  # 60 of 100 points
        assert last.reward == 0.6 and last.info.score == 60 and not last.done
        last = env.step(answer(game.name, "win 3"))
        assert last.reward == pytest.approx(0.4) and last.info.score == 120
    assert last.terminated and last.info.success
    env.close()
    assert game.closed == ([1] if game.is_new_style else [])


def test_an_instance_is_created_once(game, options):
    env = registry.make(game.name, base.EnvConfig(options=options))
    assert game.created == 0
    for k in (1, 2):
        env.reset(f"{game.name}_{k}")
    assert game.created == 1


def test_the_contract_is_kept(game, options):
    config = base.EnvConfig(options=options)
    for check in (
        checks.check_config,
        checks.check_purity,
        checks.check_interleaving,
        checks.check_hostile_texts,
        checks.check_unknown_ids,
        checks.check_call_order,
        checks.check_turn_limit,
        checks.check_action_lists,
    ):
        check(game.name, config)


def test_panels_are_upstreams_lists(game, options):
    config = base.EnvConfig(options=options)
    panel = tasks.select_tasks(game.name, "test", config)
    assert panel.item_ids == tuple(f"{game.name}_{k}" for k in range(7))
    digest = tasks.digest_file(options["test_items"])
    named = f"ids of {game.name}_test.json {digest}"
    assert panel.version == f"AgentGym server, {named}"
    with pytest.raises(base.EnvConfigError, match=r"measure it with launch.calibrate"):
        tasks.select_tasks(game.name, "test", config, tier="easy")
    del options["test_items"]
    with pytest.raises(base.EnvConfigError, match="set option 'test_items'"):
        tasks.select_tasks(game.name, "test", base.EnvConfig(options=options))


def test_workers_play_on_servers(game, options):
    configs = {game.name: base.EnvConfig(options=options)}
    with pool.EnvPool(configs, num_workers=2) as envs:
        envs.send_reset({slot: f"{game.name}_{slot}" for slot in range(4)})
        firsts = envs.receive(range(4))
        envs.send_step({slot: answer(game.name, f"win {slot}") for slot in range(4)})
        replies = envs.receive(range(4))
    for slot in range(4):
        assert f"Item {slot}. ?" in firsts[slot].result.observation
        assert replies[slot].result.reward > 0


# What a profile closes from outside.


def play_two(name, options, profile, texts):
    env = registry.make(name, base.EnvConfig(profile, options=options))
    env.reset(f"{name}_1")
    return [env.step(answer(name, text)) for text in texts]


@pytest.mark.parametrize("game", ["babyai"], indirect=True)
def test_babyai_pays_once_in_strict(game, options):
    first, second = play_two("babyai", options, "agentgym", ["win 1", "win 1"])
    assert (first.done, second.reward, second.info.score) == (False, 0.25, 0.5)
    assert play_two("babyai", options, "strict", ["win 1"])[0].terminated


@pytest.mark.parametrize("game", ["searchqa"], indirect=True)
def test_searchqa_takes_one_answer_in_strict(game, options):
    first, second = play_two("searchqa", options, "agentgym", ["no idea", "win 1"])
    assert not first.done and second.info.success
    (only,) = play_two("searchqa", options, "strict", ["no idea"])
    assert only.terminated and not only.info.success


@pytest.mark.parametrize("game", ["sciworld"], indirect=True)
def test_sciworld_clips_in_strict(game, options):
    texts = ["win 1", "focus on the wrong thing"]
    raw = play_two("sciworld", options, "agentgym", texts)
    clipped = play_two("sciworld", options, "strict", texts)
    assert [r.reward for r in raw] == [60, -160]
    assert [r.reward for r in clipped] == [0.6, -0.6]
    assert raw[1].terminated and clipped[1].terminated


# What goes wrong names the server.


@pytest.mark.parametrize("game", ["textcraft", "webshop"], indirect=True)
@pytest.mark.parametrize(
    "fault, message",
    [
        ("crash", r"POST http://127.0.0.1:\d+/step with .*: status 500"),
        ("nonsense", r"does not answer like a server of .* KeyError"),
        ("hang", r"/step does not answer: no complete reply within 0.2 s"),
    ],
)
def test_faults_of_the_server_are_told(game, options, fault, message):
    config = base.EnvConfig(options=options | {"timeout_s": 0.2})
    env = registry.make(game.name, config)
    env.reset(f"{game.name}_0")
    game.fault = fault
    with pytest.raises(server.ServerError, match=message):
        env.step("Action: look")
    game.fault = ""
    game.release.set()


@pytest.mark.parametrize("game", ["textcraft"], indirect=True)
def test_errors_of_the_server_are_told(game, options):
    env = registry.make("textcraft", base.EnvConfig(options=options))
    with pytest.raises(server.ServerError, match=r"status 200, .*index out of range"):
        env.reset("textcraft_500")


@pytest.mark.parametrize("name", NAMES)
def test_a_server_must_be_named_and_run(name):
    spec = importlib.import_module(f"agentrl.envs.adapters.agentgym.{name}").SPEC
    with pytest.raises(base.EnvConfigError, match="set its option 'server'"):
        spec.make(base.EnvConfig())
    env = spec.make(base.EnvConfig(options={"server": "localhost:36001"}))
    with pytest.raises(base.EnvConfigError, match="must look like http://"):
        env.reset(f"{name}_0")
    env = spec.make(base.EnvConfig(options={"server": "http://127.0.0.1:1"}))
    with pytest.raises(server.ServerError, match="Is the server running"):
        env.reset(f"{name}_0")


# Gymnasium.


@pytest.fixture
def say_number(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setitem(registry._MODULES, "say_number", "gymnasium_toy")
    monkeypatch.setenv("AGENTRL_ENVS", "say_number=gymnasium_toy")
    return importlib.import_module("gymnasium_toy")


def test_gymnasium_environments_keep_the_contract(say_number):
    checks.check_environment("say_number", base.EnvConfig())


def test_gymnasium_episodes(say_number):
    env = registry.make("say_number")
    number = env.reset("say_number_7").removeprefix("Say ").removesuffix(".")

    assert env.step("I do not know").info.parse_error
    wrong = env.step("Action: give up")
    env.reset("say_number_7")
    right = env.step(f"Action: {number}")

    assert wrong.terminated and not wrong.info.success
    assert (
        right.terminated
        and right.info.success
        and right.reward == right.info.score == 1
    )
    with pytest.raises(base.UnknownItemError, match=r"50 tasks.* no task 50"):
        env.reset("say_number_50")
    hard = tasks.select_tasks("say_number", "train", base.EnvConfig(), tier="hard")
    assert {int(item_id[-1]) % 2 for item_id in hard.item_ids} == {1}
    env.close()


def test_gymnasium_environments_must_observe_text(say_number, monkeypatch):
    monkeypatch.setattr(say_number.SayNumber, "reset", lambda self, seed: (seed, {}))
    with pytest.raises(TypeError, match="observes int, not text"):
        registry.make("say_number").reset("say_number_0")


def test_an_environment_keeps_the_name_that_its_item_ids_bear(monkeypatch):
    module = "agentrl.envs.adapters.agentgym.textcraft"
    monkeypatch.setitem(registry._MODULES, "craft", module)
    with pytest.raises(base.EnvConfigError, match=f"register it as textcraft={module}"):
        registry.get_spec("craft")
