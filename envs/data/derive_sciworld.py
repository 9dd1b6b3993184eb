"""Derives `sciworld_tasks.json` from the `scienceworld` package, in about half an hour.

  python -m agentrl.envs.data.derive_sciworld

Counts the variations of each kind of task in the package's splits, which lie one after
the other: train, dev, test. Then plays the solutions that the package gives, and keeps
the variations where they succeed within the turn limit, up to a number of each kind and
split, in the order of a hash.
"""

import importlib.metadata
import itertools
import json
import pathlib
from typing import Any

from agentrl.envs import base, registry
from agentrl.envs.sciworld import environment, java, variations

_LEFT_OUT = ("5-1", "5-2", "9-1", "9-2", "9-3", "10-1", "10-2")  # by AgentGym
_KEPT = {"train": 50, "test": 15}  # of each kind
_FILE = pathlib.Path(__file__).parent / "sciworld_tasks.json"


def main() -> None:
    """Writes the counts, then the solved variations."""
    tasks = count_variations()
    write(tasks)
    for task, facts in tasks.items():
        facts["solved"] = find_solved(task)
        print(task, len(facts["solved"]), flush=True)
        write(tasks)


def count_variations() -> dict[str, dict[str, Any]]:
    """The kinds of tasks in AgentGym's order, with the sizes of their splits."""
    from scienceworld import constants  # pyright: ignore[reportMissingImports]

    simulator = java.launch().jvm.scienceworld.runtime.pythonapi.PythonInterface()
    tasks = {}
    for number, task in constants.ID2TASK.items():
        if number in _LEFT_OUT:
            continue
        simulator.load(task, 0, "", False)
        splits = [
            list(simulator.getVariationsTrain()),
            list(simulator.getVariationsDev()),
            list(simulator.getVariationsTest()),
        ]
        total = simulator.getTaskMaxVariations(task)
        if list(itertools.chain(*splits)) != list(range(total)):
            raise ValueError(f"the splits of '{task}' do not lie one after the other.")
        tasks[task] = {"variations": list(map(len, splits)), "solved": []}
    return tasks


def find_solved(task: str) -> list[int]:
    """Variations of a kind that its solutions solve, as many as are kept."""
    alike = [(i, v) for i, v in enumerate(variations.load()) if v.task == task]
    alike.sort(key=lambda pair: base.stable_hash("sciworld-panel", pair[0]))
    solved = {split: [] for split in _KEPT}
    for index, variation in alike:
        found, room = solved.get(variation.split, []), _KEPT.get(variation.split, 0)
        if len(found) < room and is_solved(index):
            found.append(variation.number)
    return sorted(itertools.chain(*solved.values()))


def is_solved(index: int) -> bool:
    """Whether the package's solution succeeds within the turn limit."""
    env = registry.make("sciworld")
    env.reset(f"sciworld_{index}")
    assert isinstance(env, environment.SciWorld)
    path = env.gold_path
    if len(path) > env.max_turns:
        return False
    for action in path:
        result = env.step(f"Action:\n{action}")
        if result.done:
            return result.info.success
    return False


def write(tasks: dict[str, dict[str, Any]]) -> None:
    """Writes the file, one kind of task a line, and forgets what was read of it."""
    version = json.dumps(importlib.metadata.version("scienceworld"))
    lines = ",\n".join(
        f'"{task}": {json.dumps(facts)}' for task, facts in tasks.items()
    )
    _FILE.write_text(f'{{"version": {version}, "tasks": {{\n{lines}\n}}}}\n')
    variations.read_facts.cache_clear()
    variations.load.cache_clear()


if __name__ == "__main__":
    main()
