"""Serves our environments to every trainer that speaks OpenEnv.

    python -m agentrl.envs.adapters.openenv.server --env=textcraft --port=8000

Each session of a client is one instance. `reset(seed=k)` starts task k of the training
panel, counted from its beginning again where the panel ends; `split="test"` takes the test
panel, `item_id="textcraft_3"` that task. OpenEnv's task API lists the panels. An action has
the field `message`, the agent's whole answer; an observation `text`, at a reset also the
`instruction`, and after every step `success` and `score`.

Messages have at most `MAX_MESSAGE_CHARS` characters, sessions that are idle for
`--idle_s` end, and there are at most `--sessions` of them.
"""

import argparse
import contextlib
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.envs import base, registry
from agentrl.envs.adapters import openenv

MAX_MESSAGE_CHARS = 1_000_000


class Session:
    """An instance of an environment behind a session, apart from OpenEnv's classes."""

    def __init__(self, name: str, config: base.EnvConfig):
        self.env = registry.make(name, config)
        self.item_id = ""
        self.steps = 0
        self.over = True

    def start(
        self, seed: int | None, split: str, index: int | None, item_id: str
    ) -> str:
        """Starts the task that a client asks for, and returns its first observation.

        Raises:
          EnvConfigError: if there is no such split.
          UnknownItemError: if there is no such task.
        """
        if not item_id:
            ids = list_ids(self.env.name, split, self.env.config)
            item_id = ids[(index if index is not None else seed or 0) % len(ids)]
        observation = self.env.reset(item_id)
        self.item_id, self.steps, self.over = item_id, 0, False
        return observation

    def step(self, message: str) -> base.StepResult:
        """Applies an answer.

        Raises:
          CallOrderError: before a reset, and after the end of an episode.
        """
        if self.over:
            raise base.CallOrderError(
                "the episode is over: reset the environment first."
            )
        result = self.env.step(message)
        self.steps += 1
        self.over = result.done
        return result


@functools.lru_cache(maxsize=16)
def _list_ids(name: str, split: str, config: "_Frozen") -> tuple[str, ...]:
    spec = registry.get_spec(name)
    if split not in spec.splits:
        raise base.EnvConfigError(
            f"environment '{name}' has no split {split!r}; it has {spec.splits}."
        )
    return spec.panel(split, config.value).item_ids


class _Frozen:
    """A configuration that equals others with the same fields, for a cache."""

    def __init__(self, value: base.EnvConfig):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return repr(self.value)


def list_ids(name: str, split: str, config: base.EnvConfig) -> tuple[str, ...]:
    """The tasks of a split, in order.

    Raises:
      EnvConfigError: if there is no such split.
    """
    return _list_ids(name, split, _Frozen(config))


def make_app(
    name: str, config: base.EnvConfig, *, sessions: int = 64, idle_s: float = 3600.0
) -> Any:
    """Builds the application that serves one environment.

    Args:
      name: of a registered environment.
      config: its configuration.
      sessions: instances that may be open at one time.
      idle_s: seconds after which a session without calls ends.

    Raises:
      MissingDataError: if the package `openenv` or the environment's data is absent.
    """
    registry.make(name, config).close()  # fail now, not in a session
    types = openenv.import_openenv("core.env_server.types")
    http_server = openenv.import_openenv("core.env_server.http_server")
    action, observation = _make_messages(types)
    limits = types.ConcurrencyConfig(
        max_concurrent_envs=sessions, session_timeout=idle_s
    )
    return http_server.create_fastapi_app(
        _make_environment(name, config, types, observation),
        action,
        observation,
        concurrency_config=limits,
        env_name=name,
    )


def _make_messages(types: Any) -> tuple[Any, Any]:
    """The classes of actions and observations, made of OpenEnv's module of types."""
    pydantic = importlib.import_module("pydantic")  # which openenv brings

    class TextAction(types.Action):
        message: str = pydantic.Field(..., max_length=MAX_MESSAGE_CHARS)

    class TextObservation(types.Observation):
        text: str = ""
        instruction: str = ""
        item_id: str = ""
        success: bool = False
        score: float = 0.0
        truncated: bool = False

    return TextAction, TextObservation


def _make_environment(
    name: str, config: base.EnvConfig, types: Any, observation_class: Any
) -> Any:
    """The class of which each session is an instance."""
    interfaces = openenv.import_openenv("core.env_server.interfaces")

    class Served(interfaces.Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._session = Session(name, config)

        def reset(
            self,
            seed: int | None = None,
            episode_id: str | None = None,
            split: str = "train",
            index: int | None = None,
            item_id: str = "",
        ) -> Any:
            text = self._session.start(seed, split, index, item_id)
            env = self._session.env
            return observation_class(
                text=text, instruction=env.instruction, item_id=self._session.item_id
            )

        def step(self, action: Any, timeout_s: float | None = None) -> Any:
            result = self._session.step(action.message)
            return observation_class(
                text=result.observation,
                item_id=self._session.item_id,
                success=result.info.success,
                score=result.info.score,
                truncated=result.truncated and not result.terminated,
                reward=result.reward,
                done=result.done,
            )

        @property
        def state(self) -> Any:
            return types.State(
                step_count=self._session.steps, item_id=self._session.item_id or None
            )

        def list_splits(self) -> list[str]:
            return list(registry.get_spec(name).splits)

        def num_tasks(self, split: str) -> int:
            return len(list_ids(name, split, config))

        def get_task(self, split: str, index: int) -> Mapping[str, Any]:
            return {"index": index, "item_id": list_ids(name, split, config)[index]}

        def close(self) -> None:
            self._session.env.close()

    return Served


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the flags and serves until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--env", required=True, help="an environment, such as textcraft"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--profile", default="strict", choices=base.PROFILES)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--idle_s", type=float, default=3600.0)
    flags = parser.parse_args(arguments)
    try:
        config = base.EnvConfig(flags.profile)
        limits = {"sessions": flags.sessions, "idle_s": flags.idle_s}
        app = make_app(flags.env, config, **limits)
    except (base.EnvConfigError, base.MissingDataError) as error:
        raise SystemExit(str(error)) from error
    uvicorn = importlib.import_module("uvicorn")
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.run(app, host=flags.host, port=flags.port, log_level="warning")


if __name__ == "__main__":
    main()
