"""One call of launch.study: reads the study, plans, probes, trains, reports."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Literal

from agentrl import errors
from agentrl.experiment import base_model
from agentrl.findings import gather
from agentrl.study import cost, folder, graph, plan, spec, work
from agentrl.study_page import page


def run(
    path: pathlib.Path,
    root: pathlib.Path,
    *,
    scale: str,
    axes: Sequence[str] = (),
    environments: Sequence[str] = (),
    seeds: Sequence[int] = (),
    model: str = "",
    action: Literal["plan", "train", "report"] = "train",
    probe: bool = False,
    only: Sequence[str] = (),
    max_nodes: int = 0,
    num_workers: int = 1,
) -> None:
    """Does what launch.study's flags of the same names say.

    Raises:
      ConfigError: if the study cannot work, its folder holds another one, or nodes
        failed.
      InterruptedRun: if a signal ended it.
    """
    study = spec.load(path, scale, environments).select(axes, seeds)
    if model:
        study = dataclasses.replace(
            study, base=base_model.start_from(study.base, model)
        )
    wanted = graph.build(study)
    place = folder.Folder(root)
    chosen = frozenset(i for name in only for i in wanted.line(wanted.find(name)))
    if action != "report":
        place.claim_study(study, wanted, write=action == "train")
        if probe:
            _probe(place, wanted, num_workers)
        print(plan.describe(study, place, wanted, num_workers=num_workers), flush=True)
    if action == "train":
        crew = work.Crew(place, wanted, only=chosen, max_nodes=max_nodes, say=_say)
        crew.run(num_workers)
    if action != "plan":
        print(f"Page: {page.write(gather.gather(study, place, wanted))}")
    _check_failures(place, wanted)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def _probe(place: folder.Folder, wanted: graph.Graph, num_workers: int) -> None:
    costs = cost.Costs.read(place, wanted)
    probes = cost.probes(wanted, costs, at_once=num_workers)
    if probes.nodes:
        _say(f"probing {len(probes.nodes)} kinds of nodes")
        aside = folder.Folder(place.root, nodes=cost.PROBES)
        work.Crew(aside, probes, say=_say).run(num_workers)
        _check_failures(aside, probes)


def _check_failures(place: folder.Folder, wanted: graph.Graph) -> None:
    """Raises `ConfigError` naming the nodes that failed and how many wait for them."""
    states = place.states(wanted)
    failed = [wanted.nodes[name] for name, s in states.items() if s == "failed"]
    if not failed:
        return
    blocked = list(states.values()).count("blocked")
    logs = ", ".join(str(place.beside(node, ".log")) for node in failed)
    raise errors.ConfigError(
        f"{len(failed)} nodes failed twice and {blocked} that start from them were left "
        f"out; all others are done or under way. See {logs}; then remove the files "
        "*.failed.json beside them to have them tried again."
    )
