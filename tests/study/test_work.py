"""Nodes of a study: what is shared, who works on what, what failures and kills cost."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small_study

from agentrl import errors, storage
from agentrl.experiment import files
from agentrl.statistics import results
from agentrl.study import cost, folder, graph, plan, work

HERE = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    found = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(found))


def make_crew(root, study=None, **changes):
    wanted = graph.build(study or small_study.make_study())
    place = folder.Folder(root)
    said = []
    return work.Crew(place, wanted, say=said.append, package="fake_launch", **changes)


def trained(root):
    path = root / "nodes" / "trained"
    return [line.partition(".")[2] for line in path.read_text().splitlines()]


def test_cells_share_what_they_have_in_common():
    study = small_study.make_study(seeds=(0, 1))
    wanted = graph.build(study)
    names = [node.name.partition(".")[2] for node in wanted.nodes.values()]
    assert names == ["warm", "grpo_a", "grpo_b", "grpo_b"] * 2
    assert wanted.chains["across/textcraft", 0] == wanted.chains["sequence/a>b", 0][:2]

    def ids(**changes):
        return set(graph.build(small_study.make_study(**changes)).nodes)

    usual = ids()
    mesh, evaluation = study.base.mesh, study.base.evaluation
    assert ids(name="other", num_env_workers=7, save_every=3) == usual
    assert ids(mesh=dataclasses.replace(mesh, cpu_devices=2)) == usual
    assert ids(env_observation_bytes=99) & usual == set()
    assert ids(evaluation=dataclasses.replace(evaluation, samples=3)) & usual == set()
    last = wanted.find(wanted.chains["sequence/a>b", 0][-1])
    assert tuple(wanted.line(last)) == wanted.chains["sequence/a>b", 0]


def test_a_crew_trains_every_node_once_after_its_parent(tmp_path):
    crew = make_crew(tmp_path)
    crew.run(2)
    assert set(crew.place.states(crew.wanted).values()) == {"done"}
    assert sorted(trained(tmp_path)) == ["grpo_a", "grpo_b", "grpo_b", "warm"]
    assert trained(tmp_path)[0] == "warm"
    last = crew.wanted.nodes[crew.wanted.chains["sequence/a>b", 0][-1]]
    results = crew.place.workdir(last) / "evaluations"
    assert len(list(results.glob("*.json"))) == 3 * 2  # of all stages of the chain
    crew.run(1)  # nothing is left
    assert len(trained(tmp_path)) == 4


def test_a_failure_costs_its_descendants_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAILURES", "grpo_a")
    crew = make_crew(tmp_path)
    crew.run(1)
    states = crew.place.states(crew.wanted)
    assert list(states.values()) == ["done", "failed", "done", "blocked"]
    assert trained(tmp_path).count("grpo_a") == 2
    assert crew.say.__self__[-3].endswith("launch.train: grpo_a fails")
    shown = plan.describe(
        small_study.make_study(), crew.place, crew.wanted, num_workers=1
    )
    assert "a node before it failed" in shown and "to have it tried again" in shown

    monkeypatch.delenv("FAKE_FAILURES")
    failed = crew.wanted.nodes[crew.wanted.chains["across/textcraft", 0][1]]
    crew.place.beside(failed, ".failed.json").unlink()
    crew.run(1)
    assert set(crew.place.states(crew.wanted).values()) == {"done"}


def test_a_node_that_never_is_done_fails_instead_of_being_trained_for_ever(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(folder.Folder, "_look", lambda *_: False)
    crew = make_crew(tmp_path)
    crew.run(1)
    states = list(crew.place.states(crew.wanted).values())
    assert states == ["failed", "blocked", "blocked", "blocked"]
    assert trained(tmp_path) == ["warm", "warm"]


def test_what_a_killed_worker_leaves_is_finished_by_another(tmp_path):
    code = (
        "import test_work, pathlib, sys;"
        "test_work.make_crew(pathlib.Path(sys.argv[1])).run(1)"
    )
    environment = os.environ | {"FAKE_SECONDS": "1.5"}
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment
    )
    path = tmp_path / "nodes" / "trained"
    while not path.exists():
        assert worker.poll() is None
        time.sleep(0.02)
    crew = make_crew(tmp_path)
    assert next(iter(crew.place.states(crew.wanted).values())) == "running"
    worker.send_signal(signal.SIGKILL)
    worker.wait()

    # What the killed one had begun goes on without it, and is nobody else's till its end.
    crew.run(2)
    assert set(crew.place.states(crew.wanted).values()) == {"done"}
    assert trained(tmp_path).count("warm") in (1, 2)
    for node in crew.wanted.nodes.values():
        assert not crew.place.failure(node)


def test_another_study_in_a_folder_is_refused_by_naming_fields(tmp_path):
    study = small_study.make_study()
    crew = make_crew(tmp_path, study)
    crew.place.claim_study(study, crew.wanted, write=True)
    crew.run(1)
    with pytest.raises(errors.ConfigError, match="holds a study of many runs"):
        files.read_run(tmp_path)
    more = small_study.make_study(seeds=(0, 1))
    crew.place.claim_study(more, graph.build(more), write=False)
    other = small_study.make_study(env_observation_bytes=99)
    with pytest.raises(errors.ConfigError, match="differs in env_observation_bytes"):
        crew.place.claim_study(other, graph.build(other), write=True)


def test_drift_is_measured_of_nodes_that_are_done_and_leaves_their_ids(tmp_path):
    crew = make_crew(tmp_path)
    crew.run(1)
    study = small_study.make_study(drift_samples=2)
    later = make_crew(tmp_path, study)
    assert set(later.wanted.nodes) == set(crew.wanted.nodes)
    assert set(later.place.states(later.wanted).values()) == {"done"}
    told = plan.describe(study, later.place, later.wanted, num_workers=1)
    assert "The drift of 3 done nodes is to be measured." in told
    node = later.wanted.nodes[later.wanted.chains["sequence/a>b", 0][-1]]
    before = cost.measure(later.place, node)

    later.run(2)
    assert len(trained(tmp_path)) == 4  # nothing is trained again
    assert [later.place.lacks_drift(n) for n in later.wanted.nodes.values()] == [0] * 4
    assert not later.place.drift(next(iter(later.wanted.nodes.values()))).exists()
    (result,) = results.load_all(later.place.drift(node))[:1]
    assert [(d.stage, d.step) for d in result.drifts] == [("grpo_a", 6), ("warm", 3)]
    assert result.samples == 2
    events = later.place.sessions(node)
    seconds = events[-1]["time"] - events[-2]["time"]
    after = cost.measure(later.place, node)
    assert after.evaluation == pytest.approx(before.evaluation + seconds)
    assert after.setup == before.setup


def test_a_drift_that_fails_is_told_and_leaves_the_node_done(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAILURES", "drift")
    crew = make_crew(tmp_path, small_study.make_study(drift_samples=2))
    crew.run(1)
    assert set(crew.place.states(crew.wanted).values()) == {"done"}
    told = [line for line in crew.say.__self__ if "drift not measured, code 1" in line]
    assert len(told) == 3 and told[0].endswith(".log")
    monkeypatch.delenv("FAKE_FAILURES")
    make_crew(tmp_path, small_study.make_study(drift_samples=2)).run(1)
    assert not any(map(crew.place.lacks_drift, crew.wanted.nodes.values()))


def test_what_drift_is_measured_from():
    warm, *others = small_study.make_study().cells[2].stages
    assert graph.find_origins([warm]) == {}
    assert graph.find_origins([warm, *others[:1]]) == {"start": "warm", "base": "warm"}
    both = {"start": "grpo_a", "base": "warm"}
    assert graph.find_origins([warm, *others]) == both
    untrained = {"start": "untrained", "base": "untrained"}
    assert graph.find_origins(others[:1]) == untrained
    assert graph.find_origins(others)["base"] == "untrained"


def test_a_plan_estimates_from_what_has_run(tmp_path):
    study = small_study.make_study(seeds=(0, 1))
    crew = make_crew(tmp_path, study, max_nodes=2)
    before = plan.describe(study, crew.place, crew.wanted, num_workers=1)
    assert "\n8 nodes are of a kind that was not measured yet" in before
    crew.run(1)
    costs = cost.Costs.read(crew.place, crew.wanted)
    warm, other = (crew.wanted.nodes[crew.wanted.chains["across/textcraft", s][0]]
                   for s in (0, 1))  # fmt: skip
    assert cost.measure(crew.place, warm).iteration == pytest.approx(2.0, rel=1e-3)
    assert costs.estimate(other) == costs.estimate(warm) is not None
    after = plan.describe(study, crew.place, crew.wanted, num_workers=2)
    assert (
        "2 done" in after
        and "at best 1/2" in after
        and "4 nodes are of a kind" in after
    )


def leave_sessions(place, node, *spans, lines=()):
    """Leaves what processes of these times (seconds) did, None for an end unknown."""
    place.workdir(node).mkdir(parents=True)
    stage = {"stage": node.stage.name, "time/total": 2.0}
    written = [json.dumps(stage | {"wall_time": time}) for time in lines]
    (place.workdir(node) / "metrics.jsonl").write_text("\n".join(written) + "\n")
    for command, begin, end in spans:
        place.record(node, event="start", command=command, time=begin, host="h", pid=1)
        if end is not None:
            place.record(node, event="end", time=end, code=0)


def test_time_between_the_processes_of_a_node_is_not_theirs(tmp_path):
    node, other = list(graph.build(small_study.make_study()).nodes.values())[:2]
    place = folder.Folder(tmp_path)
    week = 7 * 24 * 3600
    later = [("evaluate", week, week + 10), ("drift", 2 * week, 2 * week + 5)]
    leave_sessions(place, node, ("train", 0, 20), *later, lines=[10, 12, 14])
    found = cost.measure(place, node)
    assert (found.setup, found.iteration) == (8, 2)
    assert found.evaluation == 6 + 10 + 5
    assert cost.seconds_spent(place, node) == 20 + 10 + 5
    # Killed, gone on with, killed again.
    killed = [("train", 0, None), ("train", week, week + 50), ("train", 2 * week, None)]
    lines = [100, 3600, week + 40, 2 * week + 7]
    leave_sessions(place, other, *killed, lines=lines)
    assert cost.seconds_spent(place, other) == 3600 + 50 + 7
    assert cost.measure(place, other) is None


def test_a_plan_charges_what_is_left_of_nodes_that_were_begun(tmp_path):
    study = small_study.make_study()
    wanted = graph.build(study)
    warm, a, *_ = wanted.nodes.values()
    place = folder.Folder(tmp_path)
    for node in (warm, a):
        leave_sessions(place, node, ("train", 0, 9), lines=[3, 5, 7])
    costs = cost.Costs.read(place, wanted)
    assert costs.estimate(warm) == 9 and costs.left(place, warm) == 2
    told = plan.describe(study, place, wanted, num_workers=1)
    assert f"{warm.name:44} ready    ~0:02" in told

    free = dict.fromkeys(list(wanted.nodes)[:1], 100.0) | {"running": 1000.0}
    assert cost.makespan(free, wanted, 2, ["running"]) == 1000
    assert cost.makespan(free, wanted, 1, ["running"]) == 1100


def test_a_plan_tells_when_so_many_workers_are_done():
    wanted = graph.build(small_study.make_study(seeds=(0, 1)))
    seconds = dict.fromkeys(wanted.nodes, 10.0)
    longest = max(map(len, wanted.chains.values()))
    alone = cost.makespan(seconds, wanted, 1)
    both = cost.makespan(seconds, wanted, 2)

    assert alone == 10 * len(seconds)
    assert alone / 2 <= both < alone
    # Each node waits for the one before it, however many workers there are.
    assert cost.makespan(seconds, wanted, 100) == 10 * longest
    assert cost.makespan({}, wanted, 2) == 0


def test_probes_run_beside_each_other_as_nodes_will(tmp_path):
    wanted = graph.build(small_study.make_study(seeds=(0, 1)))
    costs = cost.Costs({}, {})
    alone = cost.probes(wanted, costs).nodes
    beside = cost.probes(wanted, costs, at_once=2).nodes

    assert len(beside) == 2 * len(alone) and alone.keys() < beside.keys()
    assert {node.settings.seed for node in beside.values()} == {0, 1}
    # One of each kind comes before what starts from it, so two workers take a pair.
    first, second = list(beside.values())[:2]
    assert first.parent is second.parent is None
    place = folder.Folder(tmp_path, nodes=cost.PROBES)
    crew = make_crew(tmp_path, small_study.make_study(seeds=(0, 1)))
    work.Crew(place, graph.Graph(beside, {}), say=crew.say, package=crew.package).run(2)
    known = cost.Costs.read(crew.place, wanted)
    assert all(known.estimate(node) is not None for node in wanted.nodes.values())


def test_a_probe_that_solves_nothing_is_planned_with_updates(tmp_path):
    study = small_study.make_study()
    warm = dataclasses.replace(study.cells[0].stages[0], num_iterations=100)
    chains = ((warm, *cell.stages[1:]) for cell in study.cells)
    cells = [
        dataclasses.replace(cell, stages=stages)
        for cell, stages in zip(study.cells, chains, strict=True)
    ]
    wanted = graph.build(dataclasses.replace(study, cells=tuple(cells)))
    probes = cost.probes(wanted, cost.Costs({}, {}))
    # What it plays is a share of a warm start away from nonsense.
    lengths = [s.num_iterations for s in list(probes.nodes.values())[1].settings.stages]
    assert lengths == [20, cost.PROBE_ITERATIONS]
    aside = folder.Folder(tmp_path, nodes=cost.PROBES)
    work.Crew(aside, probes, say=[].append, package="fake_launch").run(1)

    known = cost.Costs.read(folder.Folder(tmp_path), wanted)
    first, *others = known.exact.values()
    assert len(others) == 2 and first.iteration == pytest.approx(2.0, rel=1e-3)
    # Of 1,000 tokens an iteration some would be trained on, at the warm start's 2 ms each.
    update = 0.002 * 1000 * cost.SIGNAL_SHARE
    assert {round(o.iteration, 2) for o in others} == {round(2.0 + update, 2)}


def test_commands_that_begin_together_all_add_their_cells(tmp_path):
    study = small_study.make_study()
    parts = [dataclasses.replace(study, cells=(cell,)) for cell in study.cells]
    place = folder.Folder(tmp_path)

    def begin(part):
        for _ in range(5):
            place.claim_study(part, graph.build(part), write=True)

    with concurrent.futures.ThreadPoolExecutor(len(parts)) as commands:
        list(commands.map(begin, parts))

    chains = storage.read_json(tmp_path / files.STUDY_FILE, advice="")["chains"]
    assert chains.keys() == {f"{cell.key}/0" for cell in study.cells}
