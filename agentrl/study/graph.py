"""From cells to nodes: which prefixes of chains are one and the same piece of work.

A node is a prefix of a chain with one seed, named by its content: cells that begin alike
share their first nodes. It is trained in an ordinary working directory, whose run has all
stages of the prefix and starts where the node before it ended.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl import config, errors
from agentrl.experiment import files, rules
from agentrl.statistics import results
from agentrl.study import spec

FORMAT = 1  # raised when the same configuration gives other numbers than before


@dataclasses.dataclass(frozen=True)
class Node:
    """A stage prefix with a seed."""

    id: str
    parent: str | None  # id of the node that it starts from
    settings: config.RunConfig  # with the stages of the prefix
    variants: tuple[spec.Variant, ...]
    drift_samples: int = 0  # of the study; no part of the id

    @property
    def stage(self) -> config.StageConfig:
        """The stage that the node trains."""
        return self.settings.stages[-1]

    @property
    def name(self) -> str:
        """Name of its working directory."""
        return f"{self.id}.{self.stage.name}"

    @property
    def origins(self) -> dict[str, str]:
        """What the node's drift is measured from; see `find_origins`."""
        return find_origins(self.settings.stages)

    @property
    def shape(self) -> str:
        """What nodes have in common that differ in their seed alone."""
        return digest(dataclasses.replace(self.settings, seed=0))


@dataclasses.dataclass(frozen=True)
class Graph:
    """All nodes of a study, parents first, and the chain of each cell and seed."""

    nodes: Mapping[str, Node]
    chains: Mapping[tuple[str, int], tuple[str, ...]]  # (cell, seed) -> node ids

    def line(self, node: Node) -> list[str]:
        """Ids of a node and of all that it starts from."""
        above = self.line(self.nodes[node.parent]) if node.parent else []
        return [*above, node.id]

    def find(self, name: str) -> Node:
        """The node with this id or name, or the only one that begins so.

        Raises:
          ConfigError: if there is none, or more than one.
        """
        found = [node for node in self.nodes.values() if node.name.startswith(name)]
        if len(found) != 1:
            raise errors.ConfigError(
                f"--only={name} names {len(found)} nodes of this study; give the first "
                "letters of one that --plan shows."
            )
        return found[0]


def build(study: spec.Study) -> Graph:
    """Makes the nodes of all cells and seeds; the first seed's come first."""
    nodes: dict[str, Node] = {}
    chains: dict[tuple[str, int], tuple[str, ...]] = {}
    for seed in study.seeds:
        for cell in study.cells:
            settings = study.settings_of(cell, seed)
            chain: list[str] = []
            for length in range(1, len(cell.stages) + 1):
                prefix = dataclasses.replace(settings, stages=cell.stages[:length])
                name = digest(prefix)
                last = length == len(cell.stages)
                wanted = cell.variants if last else ()
                known = nodes[name].variants if name in nodes else ()
                nodes[name] = Node(
                    id=name,
                    parent=chain[-1] if chain else None,
                    settings=prefix,
                    variants=tuple(dict.fromkeys([*known, *wanted])),
                    drift_samples=study.drift_samples,
                )
                chain.append(name)
            chains[cell.key, seed] = tuple(chain)
    return Graph(nodes, chains)


def find_origins(stages: Sequence[config.StageConfig]) -> dict[str, str]:
    """Stages that left the policies which the last one's drift is measured from.

    Args:
      stages: a chain, or its beginning.

    Returns:
      "start", what the last stage started from, and "base", the policy after the warm
      start, or the untrained one where there is none. Empty for a warm start itself.
    """
    first = stages[0]
    base = first.name if first.supervised else results.UNTRAINED_STAGE
    if len(stages) > 1:
        return {"start": stages[-2].name, "base": base}
    return {} if first.supervised else {"start": base, "base": base}


def digest(settings: config.RunConfig) -> str:
    """First 12 hex digits of the SHA-256 of all that decides a node's numbers.

    Fields that leave what is learned as it is do not count (`rules.CHANGES`), but those
    of evaluations do, as results are part of a node. Devices do not: a study may go on
    elsewhere, and `run.json` says where each node was trained. Neither do fields that
    have their default: one that a later version adds leaves the work of earlier ones.
    """
    stored = _without_defaults(settings)
    counted = [(path, value) for path, value in rules.leaves(stored) if _counts(path)]
    text = json.dumps([FORMAT, list(settings.environments), sorted(counted)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_defaults(value: Any) -> Any:
    """Like `files.to_json`, without the fields of dataclasses that have their default."""
    if isinstance(value, Mapping):
        return {key: _without_defaults(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(child) for child in value]
    if not dataclasses.is_dataclass(value):
        return value
    kept: dict[str, Any] = {"class": type(value).__name__}
    for field in dataclasses.fields(value):
        has_default = field.default is not dataclasses.MISSING
        default = field.default if has_default else None
        if not has_default and field.default_factory is not dataclasses.MISSING:
            default, has_default = field.default_factory(), True
        if not has_default or getattr(value, field.name) != default:
            kept[field.name] = _without_defaults(getattr(value, field.name))
    return kept


@functools.cache
def _counts(path: str) -> bool:
    if path.startswith("mesh."):
        return False
    if path.startswith("evaluation.") or path.rpartition(".")[2] == "class":
        return True
    return rules.change_of(path) != "free"


def tree(graph: Graph, seed: int) -> Iterator[tuple[int, Node]]:
    """Nodes of one seed, each after its parent, with their depth."""
    own = [node for node in graph.nodes.values() if node.settings.seed == seed]

    def below(parent: str | None, depth: int) -> Iterator[tuple[int, Node]]:
        for node in own:
            if node.parent == parent:
                yield depth, node
                yield from below(node.id, depth + 1)

    yield from below(None, 0)


def differences(one: Sequence[Node], other: Sequence[Node]) -> list[str]:
    """Dotted paths of fields in which the last nodes of two chains differ."""
    found = files.differences(
        files.to_json(one[-1].settings), files.to_json(other[-1].settings)
    )
    return [path for path in found if _counts(path)]
