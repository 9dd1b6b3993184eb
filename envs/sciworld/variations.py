"""Which variation of which task an id names, and what is known of it beforehand."""

import dataclasses
import functools
import importlib.resources
import json

from agentrl.envs import base


@dataclasses.dataclass(frozen=True, slots=True)
class Variation:
    """One task of ScienceWorld in one of its forms."""

    task: str
    number: int
    split: str  # the package's: train, dev or test
    solved: bool  # its solution was played and succeeded within the turn limit


@functools.cache
def read_facts() -> dict:
    """The facts as in the file: the package's version, and its tasks in order."""
    path = importlib.resources.files("agentrl.envs") / "data" / "sciworld_tasks.json"
    return json.loads(path.read_text())


@functools.cache
def load() -> tuple[Variation, ...]:
    """All variations, in the order of their ids."""
    found = []
    for task, facts in read_facts()["tasks"].items():
        solved = set(facts["solved"])
        sizes = zip(("train", "dev", "test"), facts["variations"], strict=True)
        splits = [split for split, size in sizes for _ in range(size)]
        for number, split in enumerate(splits):
            found.append(Variation(task, number, split, number in solved))
    return tuple(found)


def find(index: int) -> Variation:
    """The variation that `sciworld_<index>` names.

    Raises:
      UnknownItemError: if there are not so many.
    """
    if index >= len(load()):
        raise base.UnknownItemError(
            f"item id 'sciworld_{index}' is out of range; the last task is "
            f"'sciworld_{len(load()) - 1}'."
        )
    return load()[index]
