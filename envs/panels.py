"""Writes panels to files, so that anybody can play and score the same tasks.

    python -m agentrl.envs.panels FOLDER [NAME ...]

writes `<name>_<split>.json` for the named environments, or for all that can be built:
the panel's version and digest, and of each task its id, fingerprint, difficulty and
subset. The ids in it are read as an `item_file`.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from agentrl.envs import base, registry


def describe_panel(name: str, split: str, config: base.EnvConfig) -> dict[str, Any]:
    """Returns what a panel's file holds.

    Raises:
      EnvConfigError: if there is no such environment or split.
      MissingDataError: if the environment's data is absent.
    """
    spec = registry.get_spec(name)
    panel = spec.panel(split, config)
    return {
        "env": name,
        "split": split,
        "version": panel.version,
        "digest": panel.digest,
        "tasks": [_describe_task(spec, item_id, config) for item_id in panel.item_ids],
    }


def _describe_task(
    spec: base.EnvSpec, item_id: str, config: base.EnvConfig
) -> dict[str, str]:
    task = {"item_id": item_id}
    if spec.fingerprint is not None:
        task["fingerprint"] = spec.fingerprint(item_id, config)
    tier, subset = spec.tier(item_id, config), spec.subset(item_id, config)
    return task | {"tier": tier, "subset": subset}


def main(arguments: Sequence[str]) -> None:
    """Writes the files and prints a line for each."""
    if not arguments:
        raise SystemExit(
            "Which folder? python -m agentrl.envs.panels FOLDER [NAME ...]"
        )
    folder = pathlib.Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    config = base.EnvConfig()
    try:
        specs = [registry.get_spec(name) for name in arguments[1:] or registry.names()]
    except base.EnvConfigError as error:
        raise SystemExit(str(error)) from error
    for spec in specs:
        try:
            spec.make(config).close()
        except (base.MissingDataError, base.EnvConfigError) as error:
            print(f"{spec.name}: left out, {error}")
            continue
        for split in spec.splits:
            described = describe_panel(spec.name, split, config)
            path = folder / f"{spec.name}_{split}.json"
            path.write_text(json.dumps(described, indent=1) + "\n")
            print(
                f"{path}: {len(described['tasks'])} tasks, {described['version']}, "
                f"digest {described['digest']}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
