"""The protocol of AgentGym's servers, as an environment.

  POST /create       -> the instance: a number, or {"id": number, ...}
  POST /reset        instance, task -> the first observation, in a form that varies
  GET  /observation  ?instance -> the observation again
  POST /step         instance, action -> {observation or state, reward, done, ...}
  POST /close        instance; not on all servers

Field names vary between servers; subclasses say which. Errors come with status 200 as
{"error": text}. Protocol: WooooDyy/AgentGym, `agentenv*/server.py` and the clients in
`agentenv/agentenv/envs`.
"""

import contextlib
import http
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from agentrl.envs import base, http_calls, parsing, tasks

_TIMEOUT_S = 30.0  # for one call; below the pool's deadline, to name the culprit


class ServerError(base.MissingDataError):
    """A server does not answer, or answers with an error."""


class ServerEnvironment(base.Environment):
    """One instance on a server, created with the first reset.

    Servers do not say whether an action was allowed, so `info.valid_action` is False
    only for answers that cannot be parsed, which never reach the server.
    """

    option_names = ("server", "timeout_s", "train_items", "test_items")
    instruction_text: ClassVar[str]
    instance_field: ClassVar[str] = "id"
    task_field: ClassVar[str] = "data_idx"
    create_body: ClassVar[Mapping[str, Any]] = {}
    reset_body: ClassVar[Mapping[str, Any]] = {}
    observation_field: ClassVar[str] = "observation"  # in the reply to /step

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        if "server" not in self.config.options:
            raise base.EnvConfigError(
                f"environment '{self.name}' runs on an AgentGym server; set its option "
                "'server' to the address, such as http://127.0.0.1:36001."
            )
        self._server = str(self.config.options["server"])
        self._timeout_s = float(self.config.options.get("timeout_s", _TIMEOUT_S))
        self._instance: int | None = None
        self._actions: list[str] | None = None

    @property
    def default_instruction(self) -> str:
        """The rules, which AgentGym keeps in its clients; here in words of our own."""
        return self.instruction_text

    def available_actions(self) -> list[str] | None:
        """The actions the server named in its last reply, if it names any."""
        return self._actions

    def close(self) -> None:
        """Frees the instance on the server, where the server can do that."""
        if self._instance is not None:
            self._call("POST", "close", {}, optional=True)
            self._instance = None

    # What differs between servers.

    def _parse(self, text: str) -> parsing.ParsedAction:
        return parsing.parse_last_action(text, self.config.profile)

    def _first_observation(self, reply: Any) -> str:
        return reply["observation"]

    def _reward(self, reply: Mapping[str, Any]) -> float:
        return float(reply["reward"])

    def _score(self, reply: Mapping[str, Any]) -> float:
        return float(reply["reward"])

    def _succeeded(self, reply: Mapping[str, Any]) -> bool:
        return float(reply["reward"]) >= 1.0

    def _failed(self, reply: Mapping[str, Any]) -> bool:
        """Whether the task is lost although the server would go on; `strict` only."""
        return False

    # What they share.

    def _start(self, index: int) -> str:
        if self._instance is None:
            created = self._call("POST", "create", self.create_body)
            self._instance = created["id"] if isinstance(created, dict) else created
        task = {self.task_field: index, **self.reset_body}
        reply = self._call("POST", "reset", task)
        with self._expecting(reply):
            self._note_actions(reply)
            return _encodable(self._first_observation(reply))

    def _apply(self, text: str) -> base.StepResult:
        parsed = self._parse(text)
        if parsed.error:
            info = base.StepInfo(valid_action=False, parse_error=True)
            return base.StepResult(parsed.error, info=info)
        reply = self._call("POST", "step", {"action": parsed.action})
        with self._expecting(reply):
            self._note_actions(reply)
            return self._read_step(parsed.action, reply)

    def _read_step(self, action: str, reply: Mapping[str, Any]) -> base.StepResult:
        success = self._succeeded(reply)
        over = success or self._failed(reply)
        return base.StepResult(
            _encodable(reply[self.observation_field]),
            self._reward(reply),
            terminated=bool(reply["done"])
            or (self.config.profile == "strict" and over),
            info=base.StepInfo(
                success=success, score=self._score(reply), parsed_action=action
            ),
        )

    def _note_actions(self, reply: Any) -> None:
        named = reply.get("available_actions") if isinstance(reply, dict) else None
        self._actions = None if named is None else [str(action) for action in named]

    @contextlib.contextmanager
    def _expecting(self, reply: Any) -> Iterator[None]:
        """Names the reply if it has not the fields of this environment."""
        try:
            yield
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise ServerError(
                f"{self._server} does not answer like a server of '{self.name}': "
                f"{type(error).__name__}: {error} in {str(reply)[:300]!r}."
            ) from error

    def _call(
        self, method: str, path: str, body: Mapping[str, Any], *, optional: bool = False
    ) -> Any:
        """Sends one request about this instance and returns the decoded reply.

        `optional` accepts that the server does not know the path.
        """
        if self._instance is not None:
            body = {self.instance_field: self._instance, **body}
        if method == "GET":
            path, body = f"{path}?{urllib.parse.urlencode(body)}", {}
        status, text = self._exchange(method, path, json.dumps(body))
        if optional and status == http.HTTPStatus.NOT_FOUND:
            return None
        try:
            reply = json.loads(text)
        except ValueError:
            reply = {"error": text[:500]}
        if status != http.HTTPStatus.OK or (
            isinstance(reply, dict) and "error" in reply
        ):
            raise ServerError(
                f"{method} {self._server}/{path} with {body}: status {status}, {reply}."
            )
        return reply

    def _exchange(self, method: str, path: str, body: str) -> tuple[int, str]:
        """Sends one request, on a new link: servers close idle ones between turns."""
        if not http_calls.is_address(self._server):
            raise base.EnvConfigError(
                f"environment '{self.name}': option server = {self._server!r}; it must "
                "look like http://127.0.0.1:36001."
            )
        url = f"{self._server.rstrip('/')}/{path}"
        try:
            return http_calls.exchange(method, url, body, timeout_s=self._timeout_s)
        except http_calls.CallError as error:
            raise ServerError(
                f"{url} does not answer: {error}. Is the server running?"
            ) from error


def make_spec(environment: type[ServerEnvironment]) -> base.EnvSpec:
    """Describes an environment whose tasks are those of AgentGym's lists of ids."""
    name = environment.name

    def panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
        option = f"{split}_items"
        if option not in config.options:
            raise base.EnvConfigError(
                f"environment '{name}': set option '{option}' to AgentGym's JSON file "
                "with the ids of that split."
            )
        version, ids = tasks.read_items(name, str(config.options[option]))
        return base.TaskPanel(name, split, f"AgentGym server, {version}", ids)

    def tier(item_id: str, config: base.EnvConfig) -> base.Tier:
        raise base.EnvConfigError(
            f"environment '{name}' runs on a server, which does not say how hard "
            f"{item_id} is; measure it with launch.calibrate and use its tier_file."
        )

    return base.EnvSpec(
        name=name,
        make=environment,
        splits=("train", "test"),
        panel=panel,
        tier=tier,
        subset=lambda item_id, config: "all",
        subsets=lambda config: ("all",),
        oracles={},
    )


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which JSON may carry and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()
