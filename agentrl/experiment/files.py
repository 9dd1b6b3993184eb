"""Experiment files, overrides of single fields, and what `run.json` stores of a run.

An experiment file is Python with `get_config() -> RunConfig`. Overrides name a field by
its dotted path: fields of a dataclass by name, members of a tuple by index or by their
`name`, `*` for all of them, entries of a mapping by key.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import pathlib
import platform
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

import agentrl
from agentrl import config, errors, storage
from agentrl.experiment import fields, migration, packaged, precision, rules
from agentrl.models import choices, layers
from agentrl.parallel import startup
from agentrl.pretrained import names

RUN_FILE = "run.json"  # what makes a folder the working directory of a run
STUDY_FILE = "study.json"  # likewise, of a study, whose runs lie in its `nodes/`
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def load(
    path: str | pathlib.Path,
    overrides: Sequence[str] = (),
    *,
    model: str = "",
    start: Callable[[config.RunConfig], config.RunConfig] | None = None,
    platform: str | None = None,
) -> config.RunConfig:
    """Imports an experiment file and applies overrides to its configuration.

    Args:
      path: a Python file that defines `get_config() -> RunConfig`, the name of a
        packaged experiment, or a JSON file with the `config` of a run, such as
        `run.json`.
      overrides: `field.path=value` each, applied in order.
      model: pretrained model to start from; see `base_model.start_from`.
      start: gives the run another start, before overrides are applied.
      platform: whose precision to take, as `precision.PLATFORMS` names it; None takes
        this machine's.

    Raises:
      ConfigError: if the file is missing, returns something else or gives a
        configuration class a field that it does not have, or an override names an
        unknown field or gives a value of another type.
    """
    found = packaged.find(path)
    if found.suffix == ".json":
        settings = from_json(_read_stored(found, advice="restore it.")["config"])
    else:
        settings = read_experiment(found)
    return complete(settings, overrides, model=model, start=start, platform=platform)


def read_experiment(path: pathlib.Path) -> config.RunConfig:
    """Imports an experiment file and returns its configuration as it stands there.

    Raises:
      ConfigError: if it is no Python file, or does not return a configuration.
    """
    spec = importlib.util.spec_from_file_location(f"_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise errors.ConfigError(f"{path} is not a Python file; name it with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look their module up
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise errors.ConfigError(f"{path} defines no get_config() -> RunConfig.")
        settings = module.get_config()
    except errors.ConfigError:
        raise
    except TypeError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        if (reason := fields.explain_construction(error)) is None:
            raise errors.ConfigError(_describe_failure(error, path)) from error
        raise errors.ConfigError(f"{path}, line {line}: {reason}") from error
    except Exception as error:  # whatever a person has written into the file
        raise errors.ConfigError(_describe_failure(error, path)) from error
    if not isinstance(settings, config.RunConfig):
        raise errors.ConfigError(
            f"get_config() in {path} returned {type(settings).__name__}, not a "
            "agentrl.config.RunConfig."
        )
    return settings


def complete(
    settings: config.RunConfig,
    overrides: Sequence[str] = (),
    *,
    model: str = "",
    start: Callable[[config.RunConfig], config.RunConfig] | None = None,
    platform: str | None = None,
) -> config.RunConfig:
    """Applies a pretrained model and overrides, and fills in the precision.

    See `load` for the arguments. Splits a CPU into the devices that the run wants, unless
    JAX has counted its devices already.

    Raises:
      ConfigError: if a field holds a value of another type, an override names an unknown
        field or has no effect, or the model cannot be read.
    """
    from_json(to_json(settings))  # refuses values of other types
    if model:
        from agentrl.experiment import base_model

        settings = base_model.start_from(settings, model)
    if start is not None:
        settings = start(settings)
    # The precision comes last: to ask for the platform makes JAX count its devices.
    late = [o for o in overrides if o.startswith("model.precision.")]
    for override in (o for o in overrides if o not in late):
        settings = fields.override(settings, override)
        rules.check_override(settings, override)
    startup.prepare_cpu(settings.mesh)
    platform = platform or jax.default_backend()
    settings = _choose_blocks(precision.fill_in(settings, platform), platform)
    for override in late:
        settings = fields.override(settings, override)
    return settings


def _choose_blocks(settings: config.RunConfig, platform: str) -> config.RunConfig:
    """Leaves blocks unrolled on every platform if a run trains some layers only."""
    model, trainable = settings.model, settings.trainable
    if model.scan_blocks != "auto" or not trainable:
        return settings
    if not choices.scans(model, platform):
        return settings
    block = layers.BLOCKS + "/0/"
    kinds = [p.removeprefix(block) for p in names.table(model) if p.startswith(block)]
    if layers.are_alike(trainable, model.num_layers, kinds):
        return settings
    model = dataclasses.replace(model, scan_blocks="never")
    return dataclasses.replace(settings, model=model)


def _describe_failure(error: Exception, path: pathlib.Path) -> str:
    """Names the line of an experiment file at which it failed."""
    frames = traceback.extract_tb(error.__traceback__)
    numbers = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        numbers.append(error.lineno)
    place = f"{path}:{numbers[-1]}" if numbers else str(path)
    return (
        f"the experiment file cannot be used. {place}: {type(error).__name__}: {error}"
    )


def to_json(settings: Any) -> Any:
    """The configuration as plain dictionaries, lists and values, in a stable order."""
    if dataclasses.is_dataclass(settings):
        named = isinstance(settings, config.AlgorithmConfig)
        return ({"name": settings.NAME} if named else {}) | {  # type: ignore[attr-defined]
            field.name: to_json(getattr(settings, field.name))
            for field in dataclasses.fields(settings)
        }
    if isinstance(settings, Mapping):
        return {key: to_json(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [to_json(value) for value in settings]
    return settings


def from_json(stored: Mapping[str, Any]) -> config.RunConfig:
    """Rebuilds the configuration that `to_json` stored.

    Raises:
      ConfigError: if a field is unknown, missing, or of another type.
    """
    return fields.convert(migration.upgrade(stored), config.RunConfig, "config")


def read_run(workdir: pathlib.Path) -> config.RunConfig:
    """Reads the configuration of the run in `workdir`.

    Raises:
      ConfigError: if there is no run, or a later version has written it.
      DamagedFileError: if its `run.json` cannot be read.
    """
    return from_json(read_description(workdir)["config"])


def read_description(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads all that `run.json` says of the run in `workdir`; see `describe_run`.

    Raises:
      ConfigError: if there is no run.
      DamagedFileError: if its `run.json` is empty, cut off, or of something else.
    """
    path = workdir / RUN_FILE
    if (workdir / STUDY_FILE).is_file():
        raise errors.ConfigError(
            f"{workdir} holds a study of many runs: each is in a folder of its nodes/, and "
            "its page is written by launch.study --report."
        )
    if not path.is_file():
        raise errors.ConfigError(
            f"{workdir} holds no {RUN_FILE}, so it is not the working directory of a "
            "run; give the --workdir of a launch.train command."
        )
    advice = (
        "if its folder holds no checkpoints yet, remove it; else restore it from a "
        "backup, or write it anew by training a moment into another --workdir."
    )
    return _read_stored(path, advice=advice)


def _read_stored(path: pathlib.Path, *, advice: str) -> dict[str, Any]:
    described = storage.read_json(path, advice=advice)
    if not isinstance(described.get("config"), dict):
        raise errors.DamagedFileError(f"{path} is damaged (no config); {advice}")
    return described


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Dotted paths of the fields in which two stored configurations differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [*first, *(key for key in second if key not in first)]
        pairs = [(k, first.get(k, _ABSENT), second.get(k, _ABSENT)) for k in keys]
    elif isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            return [path]
        members = enumerate(zip(first, second, strict=True))
        pairs = [(str(index), *both) for index, both in members]
    else:
        same = type(first) is type(second) and first == second
        return [] if same else [path]
    return [
        name
        for key, one, other in pairs
        for name in differences(one, other, f"{path}.{key}" if path else key)
    ]


_ABSENT = object()


def describe_run(settings: config.RunConfig) -> dict[str, Any]:
    """What `run.json` holds: enough to know what ran, where, and to run it again."""
    return {
        "name": settings.name,
        "date": _now(),
        "command": shlex.join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]]),
        **_describe_here(),
        "config": to_json(settings),
    }


def describe_continuation(
    described: Mapping[str, Any], *, stage: str, iteration: int
) -> dict[str, Any] | None:
    """An entry of `continued` in `run.json`, for a run that goes on elsewhere.

    Args:
      described: what `run.json` holds.
      stage: the last one of which an iteration is saved; empty if there is none.
      iteration: how many of it are saved.

    Returns:
      Versions, commit, platform and devices of this process with the place in the run;
      None if they are those with which the run went on last.
    """
    here = _describe_here()
    last = [described, *described.get("continued", [])][-1]
    if all(last.get(name) == value for name, value in here.items()):
        return None
    return {"date": _now(), "stage": stage, "iteration": iteration, **here}


def find_commits(described: Mapping[str, Any], stage: str) -> list[str]:
    """Commits with which iterations of a stage were trained; empty where unknown.

    Args:
      described: what `run.json` holds.
      stage: the last one that has begun.
    """
    found: list[str] = []
    for entry in [described, *described.get("continued", [])]:
        commit = (entry.get("git") or {}).get("commit")
        before = found if entry.get("stage") == stage else []
        found = list(dict.fromkeys([*before, commit])) if commit else before
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _describe_here() -> dict[str, Any]:
    return {
        "versions": {
            "agentrl": agentrl.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
        "git": describe_git(pathlib.Path(agentrl.__file__).parents[1]),
        "platform": platform.platform(),
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
    }


def describe_git(root: pathlib.Path) -> dict[str, Any] | None:
    """Commit of the checkout at `root`, and whether files differ from it.

    None if `root` is not a checkout (an installed package) or git is not there.
    """
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(root: pathlib.Path, *arguments: str) -> str:
    # A lock of the index would be in the way of whoever works in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
