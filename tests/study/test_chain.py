"""Nodes that start from each other are the chain in one run, bit for bit."""

import json
import os
import pathlib

import pytest

from agentrl import session
from agentrl.envs import registry
from agentrl.experiment import files
from agentrl.study import folder, graph, spec, work

HERE = pathlib.Path(__file__).parent
TIMING = ("time/", "wall_time", "perf/")


class InThisProcess(work.Crew):
    """Trains nodes without a process for each, which takes longer than they do."""

    def start(self, node, command, *arguments):
        assert command == "train"
        flags = dict(argument[2:].split("=", 1) for argument in arguments)
        session.train(files.load(flags["config"]), pathlib.Path(flags["workdir"]))
        return 0


def read_metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(TIMING)}
        for line in lines
    ]


@pytest.fixture
def recall(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
    registry.register("recall", "recall_env")


@pytest.mark.slow
def test_a_chain_of_nodes_is_one_run(recall, tmp_path):
    study = spec.load(HERE / "recall_study.py", "laptop", ())
    wanted = graph.build(study)
    place = folder.Folder(tmp_path / "study")
    assert len(wanted.nodes) == 3  # the second cell goes on where the first one ends

    crew = InThisProcess(place, wanted)
    while crew.train_next():
        pass

    assert set(place.states(wanted).values()) == {"done"}
    last = wanted.nodes[wanted.chains["sequence/recall>more", 0][-1]]
    whole = tmp_path / "whole"
    session.train(files.load(place.beside(last, ".json")), whole)
    pieces = place.workdir(last)
    assert read_metrics(pieces) == read_metrics(whole)
    assert len(read_metrics(pieces)) == 10
    for kind in ("episodes", "evaluations"):
        names = sorted(path.name for path in (whole / kind).glob("*.json*"))
        assert names == sorted(path.name for path in (pieces / kind).glob("*.json*"))
        for name in names:
            assert (pieces / kind / name).read_bytes() == (
                whole / kind / name
            ).read_bytes()
    assert any(name.startswith("untrained.") for name in names)
