"""The environments by name. Adding one is one file and one line here."""

import difflib
import functools
import importlib
import os

from agentrl.envs import base

_MODULES = {
    "textcraft": "agentrl.envs.textcraft",
    "babyai": "agentrl.envs.babyai",
    "alfworld": "agentrl.envs.alfworld",
    "searchqa": "agentrl.envs.searchqa",
    "webshop": "agentrl.envs.webshop",
    "sciworld": "agentrl.envs.sciworld",
    "sokoban": "agentrl.envs.sokoban",
    "textworld": "agentrl.envs.textworld",
}

VARIABLE = "AGENTRL_ENVS"  # of the environment: name=module,... of others


def names() -> tuple[str, ...]:
    """All registered environments, in a fixed order."""
    return tuple(_MODULES)


@functools.cache
def get_spec(name: str) -> base.EnvSpec:
    """Loads an environment's module and returns its `SPEC`.

    Raises:
      EnvConfigError: if no environment has that name, which lists the closest ones, or
        there is no module where one from outside is said to be, or that module's
        environment has another name, which its item ids bear.
    """
    if name not in _MODULES:
        close = difflib.get_close_matches(name, _MODULES, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise base.EnvConfigError(
            f"unknown environment {name!r}.{hint} Registered: {', '.join(_MODULES)}; "
            f"others are named in {VARIABLE}."
        )
    module = _MODULES[name]
    try:
        spec = importlib.import_module(module).SPEC
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another one
        raise base.EnvConfigError(
            f"environment {name!r}: there is no module {error.name!r}, which AGENTRL_ENVS "
            "names; correct it, or add the module's folder to PYTHONPATH."
        ) from error
    if spec.name != name:
        raise base.EnvConfigError(
            f"environment {name!r}: the environment in {module!r} is named {spec.name!r}; "
            f"register it as {spec.name}={module}."
        )
    return spec


def summary(name: str) -> str:
    """Returns the first line of an environment's data sheet: what it is about."""
    get_spec(name)  # refuses unknown names
    sheet = importlib.import_module(_MODULES[name]).__doc__ or ""
    first = sheet.partition("\n")[0]
    return first.partition(": ")[2] or first


def make(name: str, config: base.EnvConfig | None = None) -> base.Environment:
    """Builds one instance of the environment `name`."""
    return get_spec(name).make(config if config is not None else base.EnvConfig())


def register(name: str, module: str) -> None:
    """Adds an environment that lives outside this package, in this and later processes.

    Workers read the same list from the variable `AGENTRL_ENVS` (`name=module,...`).
    """
    _MODULES[name] = module
    outside = dict(_read_outside()) | {name: module}
    os.environ[VARIABLE] = ",".join(f"{n}={m}" for n, m in outside.items())
    get_spec.cache_clear()


def _read_outside() -> list[tuple[str, str]]:
    pairs = (p.partition("=") for p in os.environ.get(VARIABLE, "").split(","))
    return [(name, module) for name, _, module in pairs if name and module]


_MODULES.update(_read_outside())
