"""What a study will do and stands at, as text: chains, nodes, states, minutes."""

import datetime
from collections.abc import Iterator, Sequence

from agentrl.study import cost, folder, graph, spec, work


def describe(
    study: spec.Study, place: folder.Folder, wanted: graph.Graph, *, num_workers: int
) -> str:
    """Returns the plan: every node with its state, and the time that is left."""
    states = place.states(wanted)
    costs = cost.Costs.read(place, wanted)
    lines = [*_describe_axes(study, wanted), ""]
    for seed in study.seeds:
        lines += _describe_seed(seed, place, wanted, states, costs)
    left = {
        node.id: costs.left(place, node)
        for node in wanted.nodes.values()
        if states[node.id] in ("running", "ready", "waiting")
    }
    known = {name: seconds for name, seconds in left.items() if seconds is not None}
    unknown = len(left) - len(known)
    running = [name for name in known if states[name] == "running"]
    span = None if unknown else cost.makespan(known, wanted, num_workers, running)
    counts = {state: list(states.values()).count(state) for state in states.values()}
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines.append(f"{len(states)} nodes: {told}.")
    lacking = [
        node
        for node in wanted.nodes.values()
        if states[node.id] == "done" and place.lacks_drift(node)
    ]
    if lacking:
        lines.append(f"The drift of {len(lacking)} done nodes is to be measured.")
    if left:
        lines.append(_describe_rest(list(known.values()), span, unknown, num_workers))
    return "\n".join(lines)


def _describe_rest(
    known: Sequence[float], span: float | None, unknown: int, num_workers: int
) -> str:
    parts = []
    if known:
        told = f"about {work.describe_seconds(sum(known))} of work left"
        if num_workers > 1 and span is not None:
            told += f", {work.describe_seconds(span)} with {num_workers} workers"
        elif num_workers > 1:
            told += f", at best 1/{num_workers} of it for {num_workers} workers"
        parts.append(told)
    if unknown:
        parts.append(
            f"{unknown} nodes are of a kind that was not measured yet (?): --probe trains "
            f"{cost.PROBE_ITERATIONS} iterations of each kind, and "
            f"{cost.PROBE_SHARE:.0%} of a warm start"
        )
    return "; ".join(parts) + "."


def _describe_axes(study: spec.Study, wanted: graph.Graph) -> Iterator[str]:
    yield f"{study.name}: {', '.join(study.base.environments)}"
    for axis in dict.fromkeys(cell.axis for cell in study.cells):
        cells = [cell for cell in study.cells if cell.axis == axis]
        chains = [wanted.chains[c.key, seed] for c in cells for seed in study.seeds]
        nodes = {name for chain in chains for name in chain}
        yield (
            f"{axis}: {len(cells)} cells x {len(study.seeds)} seeds = {len(chains)} "
            f"chains, {len(nodes)} nodes: {', '.join(cell.name for cell in cells)}"
        )


def _describe_seed(
    seed: int,
    place: folder.Folder,
    wanted: graph.Graph,
    states: dict[str, folder.State],
    costs: cost.Costs,
) -> Iterator[str]:
    for depth, node in graph.tree(wanted, seed):
        state = states[node.id]
        label = f"{'  ' * depth}{node.name}"
        yield (
            f"{f'seed {seed}' if not depth else '':8}{label:44} {state:8} "
            f"{_describe_node(place, node, state, costs)}".rstrip()
        )


def _describe_node(
    place: folder.Folder, node: graph.Node, state: folder.State, costs: cost.Costs
) -> str:
    if state == "done":
        return work.describe_seconds(cost.seconds_spent(place, node))
    if state == "failed":
        failure = place.failure(node)
        last = (failure.get("last_lines") or [""])[-1]
        path = place.beside(node, ".failed.json")
        return f"{last:.200}; remove {path} to have it tried again"
    if state == "blocked":
        return "a node before it failed"
    if state == "running":
        done = len(cost.read_lines(place, node))
        left = costs.left(place, node)
        began = [e for e in place.sessions(node) if e["event"] == "start"]
        where = f"({began[-1]['host']}, pid {began[-1]['pid']})" if began else ""
        since = began and datetime.datetime.fromtimestamp(began[-1]["time"])
        told = f", {work.describe_seconds(left)} left" if left is not None else ""
        return (
            f"{done}/{node.stage.num_iterations}{told} {where} since {since:%H:%M:%S}"
            if since
            else f"{done}/{node.stage.num_iterations}{told}"
        )
    seconds = costs.left(place, node)
    return "?" if seconds is None else f"~{work.describe_seconds(seconds)}"
