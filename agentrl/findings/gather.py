"""What the nodes of a study have found so far, cell by cell."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

from agentrl import errors
from agentrl.envs import registry
from agentrl.statistics import results, transfer
from agentrl.study import folder, graph, spec


@dataclasses.dataclass(frozen=True)
class CellResults:
    """One cell with the results of all of its seeds that have some."""

    cell: spec.Cell
    # By seed, the nodes as far as they are trained and evaluated.
    chains: Mapping[int, tuple[graph.Node, ...]]
    matrix: transfer.ResultMatrix
    plan: transfer.Plan
    variants: Mapping[str, Mapping[int, Sequence[results.EvaluationResult]]]
    # Of done nodes whose drift is measured: by id, the results that hold it.
    drifts: Mapping[str, Sequence[results.EvaluationResult]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds whose whole chain is done."""
        whole = len(self.cell.stages)
        return tuple(seed for seed, done in self.chains.items() if len(done) == whole)

    @property
    def origins(self) -> dict[str, dict[str, str]]:
        """What the drift after each stage is measured from; see `graph.find_origins`."""
        stages = self.cell.stages
        return {
            stage.name: graph.find_origins(stages[: place + 1])
            for place, stage in enumerate(stages)
        }

    @property
    def stages(self) -> tuple[str, ...]:
        """All stages in their order, done or not, after the untrained policy if tested."""
        names = (stage.name for stage in self.cell.stages)
        untrained = results.UNTRAINED_STAGE
        return (*([untrained] if untrained in self.matrix.stages else []), *names)

    def seeds_after(self, stage: str) -> tuple[int, ...]:
        """Seeds that have a result after a stage."""
        return tuple(
            dict.fromkeys(s for s, name, _ in self.matrix.cells if name == stage)
        )

    @property
    def last(self) -> str:
        """The stage that the cell ends with."""
        return self.cell.stages[-1].name

    def complete(self) -> transfer.ResultMatrix:
        """The results of the seeds whose whole chain is done."""
        kept = self.seeds
        cells = {k: v for k, v in self.matrix.cells.items() if k[0] in kept}
        return dataclasses.replace(self.matrix, seeds=kept, cells=cells)


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that a study has found so far."""

    study: spec.Study
    place: folder.Folder
    wanted: graph.Graph
    cells: tuple[CellResults, ...]  # those without any result, too
    states: Mapping[str, folder.State]

    def of_axis(self, axis: str) -> list[CellResults]:
        """The cells of an axis."""
        return [found for found in self.cells if found.cell.axis == axis]

    def find(self, key: str) -> CellResults | None:
        """The cell with a key such as "mixture/equal"."""
        return next((found for found in self.cells if found.cell.key == key), None)

    def done_nodes(self) -> list[graph.Node]:
        """Nodes that are done, in their order."""
        return [n for n in self.wanted.nodes.values() if self.states[n.id] == "done"]


def gather(study: spec.Study, place: folder.Folder, wanted: graph.Graph) -> Findings:
    """Reads the results of all nodes that are done.

    Raises:
      ConfigError: if nodes were evaluated on different tasks of an environment.
    """
    states = place.states(wanted)
    found = []
    for cell in study.cells:
        chains = {
            seed: _find_trained(
                [wanted.nodes[name] for name in wanted.chains[cell.key, seed]], states
            )
            for seed in study.seeds
        }
        chains = {seed: chain for seed, chain in chains.items() if chain}
        # The working directory of a node has the results of the whole chain.
        read = {
            seed: _load(place.workdir(chain[-1]), study)
            for seed, chain in chains.items()
        }
        matrix = transfer.to_matrix(read)
        variants = {
            variant.name: {
                seed: _load(place.variant(chain[-1], variant), study)
                for seed, chain in chains.items()
                if len(chain) == len(cell.stages)
            }
            for variant in cell.variants
        }
        plan = transfer.Plan.of(cell.stages, matrix.stages)
        drifts = {
            node.id: _load(place.drift(node), study)
            for chain in chains.values()
            for node in chain
            if place.drift(node).exists()
        }
        found.append(CellResults(cell, chains, matrix, plan, variants, drifts))
        _check_panels(found[-1])
    return Findings(study, place, wanted, tuple(found), states)


def _find_trained(
    chain: Sequence[graph.Node], states: Mapping[str, folder.State]
) -> tuple[graph.Node, ...]:
    """The nodes of a chain up to the last one that is done.

    One before it may lack a variant that another cell has asked for since: it is to be
    worked on again, and its policy and evaluation are there.
    """
    ends = [place for place, node in enumerate(chain) if states[node.id] == "done"]
    return tuple(chain[: ends[-1] + 1]) if ends else ()


def _check_panels(one: CellResults) -> None:
    """Raises `ConfigError` if a cell's results of one panel are of different tasks."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    read = [("", seed, result) for (seed, *_), result in one.matrix.cells.items()]
    read += [
        (name, seed, result)
        for name, of_seeds in one.variants.items()
        for seed, found in of_seeds.items()
        for result in found
    ]
    for variant, seed, result in read:
        key = (variant, result.env, result.split, result.tier)
        digest, first = seen.setdefault(key, (result.panel_digest, seed))
        if digest != result.panel_digest:
            raise errors.ConfigError(
                f"{one.cell.key}: '{result.env}' was tested on different tasks, digest "
                f"{digest} with seed {first} and {result.panel_digest} with seed {seed}, "
                "as by versions of the code that differ in their panels. They do not "
                "compare: report one version's with --seeds, or train the others again."
            )


def _load(path: pathlib.Path, study: spec.Study) -> list[results.EvaluationResult]:
    return results.load_all(path, study.base.environments)


def label_tiers(study: spec.Study, env: str) -> Callable[[str], str]:
    """Returns the function from an item id to "easy" or "hard" (or "other").

    By the study's subsets of an environment, else by its structural tiers.
    """
    settings, registered = study.base.environments[env], registry.get_spec(env)
    chosen = {
        subset.partition("/")[2]: tier
        for tier, subsets in study.difficulty.get(env, {}).items()
        for subset in subsets
    }

    @functools.cache
    def label(item: str) -> str:
        if chosen:
            return chosen.get(registered.subset(item, settings), "other")
        return registered.tier(item, settings)

    return label
