"""What a study costs: seconds of nodes, from iterations that were measured here.

A node of whose kind nothing has run yet has no estimate, until a probe has trained some
iterations of it. Of those all is measured but one thing, `SIGNAL_SHARE`.
"""

import dataclasses
import heapq
import itertools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from agentrl import config
from agentrl.reporting import metrics
from agentrl.study import folder, graph
from agentrl.transcripts import jsonl

PROBE_ITERATIONS = 3  # at least; the first one compiles
# Of a warm start's iterations. A policy that does not speak an environment's form yet plays
# other episodes than one that does: in turns of nonsense, until its tokens are used up.
PROBE_SHARE = 0.2
# Of the tokens of episodes, those in groups with a signal, which updates train on: at least
# this is planned, as a probe's policy may solve nothing yet. 0.19 to 0.90 in most trainings
# of experiments/generalization at scale laptop, 0.37 in the median.
SIGNAL_SHARE = 1 / 3
PROBES = "probe"  # folder of probes, within the study's
DRIFT = "drift"  # what sessions call the evaluation that measures it


@dataclasses.dataclass(frozen=True)
class Measure:
    """What the work of a node took, in seconds."""

    setup: float  # start of the process, demonstrations, compilation
    iteration: float
    evaluation: float  # all that follows the last iteration, and the drift

    def total(self, num_iterations: int) -> float:
        """Of a node with this many iterations."""
        return self.setup + num_iterations * self.iteration + self.evaluation


def read_lines(place: folder.Folder, node: graph.Node) -> list[Mapping[str, Any]]:
    """Lines of `metrics.jsonl` of the node's own stage."""
    path = place.workdir(node) / metrics.FILE
    lines = jsonl.read(path) if path.exists() else ()
    return [line for line in lines if line["stage"] == node.stage.name]


def measure(place: folder.Folder, node: graph.Node) -> Measure | None:
    """What a node has taken; None before its second iteration and its end.

    Iterations of all sessions count. Setup and evaluation are those of nodes that one
    process trained from begin to end; others may have tested variants, at any later time.
    """
    lines = read_lines(place, node)
    spans = _find_spans(place.sessions(node))
    trained = next((one for one in spans if one.command != DRIFT), None)
    if len(lines) < 2 or trained is None or trained.code != 0:
        return None
    iteration = statistics.fmean(line["time/total"] for line in lines[1:])
    # With saving and writing between iterations, where one process did them all.
    gaps = (lines[-1]["wall_time"] - lines[0]["wall_time"]) / (len(lines) - 1)
    setup = lines[0]["wall_time"] - trained.begin - gaps
    rest = trained.end - lines[-1]["wall_time"]
    rest += sum(one.end - one.begin for one in spans if one is not trained)
    return Measure(max(setup, 0.0), max(gaps, iteration), rest)


@dataclasses.dataclass(frozen=True)
class _Span:
    """A process that worked on a node."""

    command: str | None
    begin: float  # seconds since the epoch
    end: float  # that of its begin, if nothing tells when it ended
    code: int | None  # None for one that was killed, or is under way


def _find_spans(
    events: Iterable[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]] = ()
) -> list[_Span]:
    """The processes behind a node's events; one without an end ended with its last line."""
    events = list(events)
    starts = [place for place, event in enumerate(events) if event["event"] == "start"]
    found = []
    for place, after in itertools.pairwise([*starts, len(events)]):
        start, *ends = events[place:after]
        until = events[after]["time"] if after < len(events) else math.inf
        written = [line["wall_time"] for line in lines]
        last = max((t for t in written if start["time"] <= t < until), default=None)
        end = ends[-1]["time"] if ends else last or start["time"]
        code = ends[-1].get("code") if ends else None
        found.append(_Span(start.get("command"), start["time"], end, code))
    return found


def _measure_probe(place: folder.Folder, probe: graph.Node) -> Measure | None:
    """What a probe has taken, with an update as large as that of a policy that learns."""
    found, lines = measure(place, probe), read_lines(place, probe)
    if found is None or probe.stage.supervised:
        return found
    played = lines[-1]["progress/tokens"] - lines[0]["progress/tokens"]
    tokens = SIGNAL_SHARE * played / (len(lines) - 1)
    of_stages = [lines, jsonl.read(place.workdir(probe) / metrics.FILE)]
    trained = next(filter(None, map(_find_updates, of_stages)), None)
    if trained is None:
        return found
    seconds_per_token = sum(t for _, t in trained) / sum(n for n, _ in trained)
    of_own = [line["time/update"] for line in lines[1:]]
    missing = seconds_per_token * tokens - statistics.fmean(of_own)
    return dataclasses.replace(found, iteration=found.iteration + max(missing, 0.0))


def _find_updates(lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Tokens and seconds of updates, but for the first of each stage, which compiles."""
    return [
        (line["learner/tokens"], line["time/update"])
        for before, line in itertools.pairwise(lines)
        if before["stage"] == line["stage"] and line["learner/tokens"]
    ]


def seconds_spent(place: folder.Folder, node: graph.Node) -> float:
    """Seconds of all processes of a node; of a killed one, until its last line."""
    spans = _find_spans(place.sessions(node), read_lines(place, node))
    return sum(one.end - one.begin for one in spans)


@dataclasses.dataclass(frozen=True)
class Costs:
    """Measured nodes of a study, to estimate others by."""

    exact: Mapping[str, Measure]  # by what seeds have in common
    similar: Mapping[str, Measure]  # by kind of the last stage

    @classmethod
    def read(cls, place: folder.Folder, wanted: graph.Graph) -> "Costs":
        """Measures whatever has run in the folder, probes last."""
        probes = folder.Folder(place.root, nodes=PROBES)
        exact: dict[str, list[Measure]] = {}
        similar: dict[str, list[Measure]] = {}
        for node in wanted.nodes.values():
            found = measure(place, node)
            if found:
                exact.setdefault(node.shape, []).append(found)
                similar.setdefault(kind_of(node), []).append(found)
        for node in wanted.nodes.values():
            if node.shape not in exact:
                of_seeds = _measure_probes(probes, node)
                if of_seeds:
                    exact[node.shape] = of_seeds
                    similar.setdefault(kind_of(node), []).extend(of_seeds)
        return cls(
            {key: _average(of_key) for key, of_key in exact.items()},
            {key: _average(of_key) for key, of_key in similar.items()},
        )

    def estimate(self, node: graph.Node) -> float | None:
        """Seconds that a whole node takes; None if nothing like it was measured."""
        found = self.exact.get(node.shape) or self.similar.get(kind_of(node))
        return found.total(node.stage.num_iterations) if found else None

    def left(self, place: folder.Folder, node: graph.Node) -> float | None:
        """Seconds that are left of a node: by its own iterations, once it has some."""
        whole = self.exact.get(node.shape) or self.similar.get(kind_of(node))
        lines = read_lines(place, node)
        if not lines:
            return whole.total(node.stage.num_iterations) if whole else None
        missing = node.stage.num_iterations - len(lines)
        seconds = statistics.fmean(line["time/total"] for line in lines)
        return missing * seconds + (whole.evaluation if whole else 0)


def kind_of(node: graph.Node) -> str:
    """What nodes have in common whose iterations are the same kind of work."""
    stage = dataclasses.replace(
        node.stage,
        name="stage",
        num_iterations=1,
        max_turns=(),
        mixture=config.MixtureConfig(environments=node.stage.mixture.environments),
    )
    return graph.digest(dataclasses.replace(node.settings, seed=0, stages=(stage,)))


def probe_of(node: graph.Node, seed: int = 0) -> graph.Node:
    """A node like this one, of a few iterations a stage, and a share of a warm start."""

    def shorten(stage: config.StageConfig) -> config.StageConfig:
        share = round(PROBE_SHARE * stage.num_iterations) if stage.supervised else 0
        return dataclasses.replace(stage, num_iterations=max(PROBE_ITERATIONS, share))

    stages = tuple(shorten(stage) for stage in node.settings.stages)
    settings = dataclasses.replace(node.settings, seed=seed, stages=stages)
    parent = dataclasses.replace(settings, stages=stages[:-1])
    return graph.Node(
        id=graph.digest(settings),
        parent=graph.digest(parent) if len(stages) > 1 else None,
        settings=settings,
        variants=node.variants,
        drift_samples=node.drift_samples,
    )


def _measure_probes(place: folder.Folder, node: graph.Node) -> list[Measure]:
    """Of the probes of a node that have run, with the seeds from 0 on."""
    of_seeds: list[Measure] = []
    while found := _measure_probe(place, probe_of(node, len(of_seeds))):
        of_seeds.append(found)
    return of_seeds


def probes(wanted: graph.Graph, costs: Costs, *, at_once: int = 1) -> graph.Graph:
    """What has to be probed, so that every node has an estimate.

    Args:
      wanted: all nodes.
      costs: what is known already.
      at_once: probes of each kind, with a seed each. As many workers run them side by
        side, and slow each other down as the nodes will.
    """
    nodes: dict[str, graph.Node] = {}
    covered = {*costs.exact, *costs.similar}
    for node in wanted.nodes.values():
        if {node.shape, kind_of(node)} & covered:
            continue
        covered.add(kind_of(node))
        for length in range(1, len(node.settings.stages) + 1):
            stages = node.settings.stages[:length]
            prefix = dataclasses.replace(node.settings, stages=stages)
            last = node.variants if length == len(node.settings.stages) else ()
            shortened = dataclasses.replace(node, settings=prefix, variants=last)
            for seed in range(at_once):
                probe = probe_of(shortened, seed)
                nodes.setdefault(probe.id, probe)
    return graph.Graph(nodes, {})


def makespan(
    seconds: Mapping[str, float],
    wanted: graph.Graph,
    num_workers: int,
    running: Collection[str] = (),
) -> float:
    """Seconds until all is done, if each worker takes the first node that is ready.

    Args:
      seconds: what is left of each node that is not done, by its id.
      wanted: all nodes; a node waits for its parent.
      num_workers: nodes that are worked on at once.
      running: those of the nodes that have a worker already.
    """
    ends = {name: seconds[name] for name in running}  # of nodes that were begun
    # When each worker is.
    free = sorted([*ends.values(), *[0.0] * (num_workers - len(ends))])
    while len(ends) < len(seconds):
        now = heapq.heappop(free)
        done = {name for name, end in ends.items() if end <= now}
        ready = [
            node.id
            for node in wanted.nodes.values()
            if node.id in seconds and node.id not in ends
            if node.parent not in seconds or node.parent in done
        ]
        if ready:
            ends[ready[0]] = now + seconds[ready[0]]
            heapq.heappush(free, ends[ready[0]])
        else:  # waits for the next node that ends
            heapq.heappush(free, min(end for end in ends.values() if end > now))
    return max(ends.values(), default=0.0)


def _average(found: Sequence[Measure]) -> Measure:
    return Measure(
        *(
            statistics.fmean(getattr(one, field.name) for one in found)
            for field in dataclasses.fields(Measure)
        )
    )
