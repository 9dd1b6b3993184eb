"""The environments by name. Adding one is one file and one line here."""

import difflib
import functools
import importlib
import os
import types

from agentrl.envs import base, faults

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
      EnvConfigError: in one line, if no environment has that name, which lists the closest
        ones; if an entry of `AGENTRL_ENVS` cannot be read; or if the module of one from
        outside cannot be imported, has no `SPEC`, or one with another name, which its
        item ids would bear.
      MissingDataError: if the module says that it lacks something.
    """
    refuse_malformed()
    if name not in _MODULES:
        close = difflib.get_close_matches(name, _MODULES, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise base.EnvConfigError(
            f"unknown environment {name!r}.{hint} Registered: {', '.join(_MODULES)}; "
            f"others are named in {VARIABLE}."
        )
    module = _MODULES[name]
    spec = getattr(_import(name, module), "SPEC", None)
    if not isinstance(spec, base.EnvSpec):
        found = "no SPEC" if spec is None else f"a SPEC of type {type(spec).__name__}"
        raise base.EnvConfigError(
            f"environment {name!r}: the module {module!r}, which {VARIABLE} names, has "
            f"{found}; it needs SPEC = base.EnvSpec(...)."
        )
    if spec.name != name:
        raise base.EnvConfigError(
            f"environment {name!r}: the environment in {module!r} is named {spec.name!r}; "
            f"register it as {spec.name}={module}."
        )
    return spec


def refuse_malformed() -> None:
    """Raises `EnvConfigError` if an entry of `AGENTRL_ENVS` cannot be read.

    Importing this module does not: each command tells it in its own way.
    """
    modules: dict[str, str] = {}
    for entry, name, module in _read_entries():
        problem = ""
        if not (name and module):
            problem = "write it as name=module"
        elif modules.setdefault(name, module) != module:
            problem = f"{name!r} is {modules[name]!r} already; name it once"
        if problem:
            raise base.EnvConfigError(f"{VARIABLE}: entry {entry!r}: {problem}.")


def _import(name: str, module: str) -> types.ModuleType:
    """Imports an environment's module; what is wrong with one from outside is told."""
    try:
        return importlib.import_module(module)
    except (base.EnvConfigError, base.MissingDataError):
        raise
    except Exception as error:  # a border: whatever the module of a user raises
        if module == _OWN.get(name):
            raise
        prefix = f"environment {name!r}: "
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{module}.".startswith(f"{absent}."):
            raise base.EnvConfigError(
                f"{prefix}there is no module {absent!r}, which {VARIABLE} names; correct "
                "it, or add the module's folder to PYTHONPATH."
            ) from error
        raise base.EnvConfigError(
            f"{prefix}the module {module!r}, which {VARIABLE} names, cannot be imported: "
            f"{faults.brief(error)}."
        ) from error


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
    """Name and module of each entry that has both; see `refuse_malformed`."""
    return [(name, module) for _, name, module in _read_entries() if name and module]


def _read_entries() -> list[tuple[str, str, str]]:
    """Each entry of the variable as it is written, and the name and module in it."""
    entries = os.environ.get(VARIABLE, "").split(",")
    split = ((entry, *entry.partition("=")) for entry in entries if entry.strip())
    return [(entry, name.strip(), module.strip()) for entry, name, _, module in split]


_OWN = dict(_MODULES)
_MODULES.update(_read_outside())
