"""Any text environment on a server that speaks OpenEnv.

OpenEnv (https://github.com/huggingface/OpenEnv, package `openenv`, extra `openenv`) serves
environments over a WebSocket, one session for each instance. This module plays those whose
actions have one text field:

    export AGENTRL_ENVS=openenv=agentrl.envs.adapters.openenv
    --set=environments.openenv.options.server=http://127.0.0.1:8000

Actions:      everything after the last `Action:` of an answer, or the whole answer with
              `whole_answer=true`; sent as the field `action_field`.
Observations: the text fields of the server's observation, a line each if there are several;
              or the one that `observation_field` names.
Rewards:      the server's. Success is a last reward of at least `success_reward` (1.0);
              the score is the sum of rewards.
Ends:         when the server says so, or by the turn limit `max_turns` (20).
Tasks:        `openenv_<k>` is `reset(seed=k)`, or with `task_split` task k of that split by
              OpenEnv's task API. `num_train` (900) tasks are for training, `num_test` (100)
              after them for the test. A server that ignores its seed has one task.

Calls are bounded by `timeout_s` (30) and `max_message_mb` (16). The server is asked for its
health and schema as soon as an environment is made, before anything is compiled.
`agentrl.envs.adapters.openenv.server` serves our environments in turn.
"""

import contextlib
import importlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from agentrl.envs import base, http_calls, parsing

REQUIREMENT = "openenv>=0.10,<0.11"

_DEFAULTS: Mapping[str, str | int | float | bool] = {
    **{"server": "", "action_field": "", "observation_field": "", "task_split": ""},
    **{"whole_answer": False, "success_reward": 1.0, "timeout_s": 30.0},
    **{"max_message_mb": 16.0, "num_train": 900, "num_test": 100},
}
_COMMON = ("metadata", "done", "reward")  # fields of every action and observation


class OpenEnvError(base.MissingDataError):
    """A server does not answer, or not as one of OpenEnv does."""


class OpenEnv(base.Environment):
    """One session on a server, opened with the first reset."""

    name = "openenv"
    turn_limits: ClassVar = dict.fromkeys(base.PROFILES, 20)
    option_names = tuple(_DEFAULTS)

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        options = read_options(self.config)
        self._options = options
        self._server = str(options["server"]).rstrip("/")
        self._field = self._find_action_field()
        self._client: Any = None

    @property
    def default_instruction(self) -> str:
        """What is known without knowing the environment; option `instruction` says more."""
        form = (
            "Your whole answer is the action."
            if self._options["whole_answer"]
            else "Answer in this form:\nThought:\nyour thought\n\nAction:\nyour action"
        )
        return f"You act in an environment, which answers each of your actions.\n{form}"

    def close(self) -> None:
        """Ends the session."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _start(self, index: int) -> str:
        total = int(self._options["num_train"]) + int(self._options["num_test"])
        if index >= total:
            raise base.UnknownItemError(
                f"environment '{self.name}' has {total} tasks here, from {self.name}_0; "
                f"there is no task {index}. See options num_train and num_test."
            )
        self._score = 0.0
        if self._client is None:
            self._client = self._connect()
        split = self._options["task_split"]
        task = {"split": split, "index": index} if split else {"seed": index}
        result = self._call("reset", **task)
        return self._to_text(result.observation)

    def _apply(self, text: str) -> base.StepResult:
        action = text.strip()[: parsing.MAX_PARSED_CHARS]
        if not self._options["whole_answer"]:
            action = parsing.parse_last_action(text, self.config.profile).action
        if not action:
            info = base.StepInfo(
                valid_action=False, parse_error=True, score=self._score
            )
            return base.StepResult("No action was given.", info=info)
        result = self._call("step", {self._field: action})
        reward = float(result.reward or 0.0)
        self._score += reward
        done = bool(result.done)
        info = base.StepInfo(
            success=done and reward >= float(self._options["success_reward"]),
            score=self._score,
            parsed_action=action,
        )
        return base.StepResult(
            self._to_text(result.observation), reward, terminated=done, info=info
        )

    def _to_text(self, observation: Any) -> str:
        wanted = self._options["observation_field"]
        fields = observation if isinstance(observation, Mapping) else {}
        if wanted:
            shown = fields.get(str(wanted))
            if not isinstance(shown, str):
                raise OpenEnvError(
                    f"{self._server} observes {sorted(fields)}; option observation_field "
                    f"= {wanted!r} names no text among them."
                )
            return parsing.replace_unprintable(shown)
        texts = [
            value
            for key, value in fields.items()
            if isinstance(value, str) and key not in _COMMON
        ]
        if not texts:
            raise OpenEnvError(
                f"{self._server} observes no text, but {str(observation)[:200]!r}."
            )
        return parsing.replace_unprintable("\n".join(texts))

    def _find_action_field(self) -> str:
        """The one text field of the server's actions, or the one that was asked for."""
        self._ask("health")
        actions = self._ask("schema").get("action", {})
        fields = actions.get("properties", {})
        texts = [
            key
            for key, field in fields.items()
            if field.get("type") == "string" and key not in _COMMON
        ]
        wanted = str(self._options["action_field"])
        if wanted in fields or (not wanted and len(texts) == 1):
            return wanted or texts[0]
        raise base.EnvConfigError(
            f"environment '{self.name}': the actions of {self._server} have the fields "
            f"{sorted(fields)}; name the one that takes text with option action_field, "
            f"now {wanted!r}."
        )

    def _ask(self, path: str) -> dict[str, Any]:
        timeout_s = float(self._options["timeout_s"])
        try:
            status, text = http_calls.exchange(
                "GET", f"{self._server}/{path}", "", timeout_s=timeout_s
            )
            reply = json.loads(text)
        except (http_calls.CallError, ValueError) as error:
            raise OpenEnvError(
                f"{self._server}/{path} does not answer like a server of OpenEnv: {error}. "
                "Is it running? See option server."
            ) from error
        if status != 200 or not isinstance(reply, dict):
            raise OpenEnvError(
                f"{self._server}/{path} does not answer like a server of OpenEnv: status "
                f"{status}, {text[:200]!r}."
            )
        return reply

    def _connect(self) -> Any:
        core = import_openenv("core")
        timeout_s = float(self._options["timeout_s"])
        client = core.GenericEnvClient(
            base_url=self._server,
            connect_timeout_s=timeout_s,
            message_timeout_s=timeout_s,
            max_message_size_mb=float(self._options["max_message_mb"]),
        ).sync()
        try:
            client.connect()
        except Exception as error:
            raise OpenEnvError(
                f"{self._server} opens no session: {type(error).__name__}: {error}. A "
                "server has as many as its max_concurrent_envs; this run needs "
                "num_slots of them."
            ) from error
        return client

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments, **keywords)
        except Exception as error:  # of the client, whatever it raises
            with contextlib.suppress(Exception):  # the server may be gone
                self._client.close()
            self._client = None  # the session cannot be trusted any more
            raise OpenEnvError(
                f"{method} on {self._server} failed: {type(error).__name__}: {error} (the "
                f"bounds are timeout_s = {self._options['timeout_s']} and max_message_mb "
                f"= {self._options['max_message_mb']})."
            ) from error


def read_options(config: base.EnvConfig) -> dict[str, str | int | float | bool]:
    """Returns all options, with defaults for those that were not given.

    Raises:
      EnvConfigError: naming an option whose value cannot be used.
    """
    options = {
        name: config.options.get(name, default) for name, default in _DEFAULTS.items()
    }
    for name, default in _DEFAULTS.items():
        value = options[name]
        number = isinstance(default, int | float) and not isinstance(default, bool)
        fits = (
            isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            if number
            else isinstance(value, type(default))
        )
        if isinstance(default, int) and not isinstance(default, bool):
            fits = fits and isinstance(value, int)
        if not fits:
            raise base.EnvConfigError(
                f"environment 'openenv': option {name} = {value!r}; its default is "
                f"{default!r}."
            )
    if not http_calls.is_address(str(options["server"])):
        raise base.EnvConfigError(
            f"environment 'openenv': option server = {options['server']!r}; it must look "
            "like http://127.0.0.1:8000."
        )
    return options


def import_openenv(module: str) -> Any:
    """Imports a module of the package `openenv`.

    Raises:
      MissingDataError: if it is not installed.
    """
    try:
        return importlib.import_module(f"openenv.{module}")
    except ImportError as error:
        raise base.MissingDataError(
            f"this needs the package 'openenv' ({error}); pip install '{REQUIREMENT}', or "
            "the extra 'openenv'."
        ) from error


def _panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    options = read_options(config)
    num_train, num_test = int(options["num_train"]), int(options["num_test"])
    numbers = (
        range(num_train) if split == "train" else range(num_train, num_train + num_test)
    )
    version = f"OpenEnv {options['server']}"
    ids = tuple(f"openenv_{number}" for number in numbers)
    return base.TaskPanel("openenv", split, version, ids)


SPEC = base.EnvSpec(
    name="openenv",
    make=OpenEnv,
    splits=("train", "test"),
    panel=_panel,
    tier=lambda item_id, config: "easy",
    subset=lambda item_id, config: "all",
    subsets=lambda config: ("all",),
    oracles={},
)
