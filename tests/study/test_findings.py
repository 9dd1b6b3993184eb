"""Tables, page and answers of a study, and a second computation of its numbers."""

import csv
import importlib.util
import os
import pathlib

import pytest
import small_study

from agentrl.findings import gather, page, tables
from agentrl.study import folder, graph, work

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two seeds, all of it done."""
    with pytest.MonkeyPatch.context() as patch:
        found = [str(HERE), str(HERE.parent), str(ROOT)]
        patch.setenv("PYTHONPATH", os.pathsep.join(found))
        root = tmp_path_factory.mktemp("study")
        study = small_study.make_study(seeds=(0, 1))
        wanted, place = graph.build(study), folder.Folder(root)
        place.claim_study(study, wanted, write=True)
        work.Crew(place, wanted, say=lambda _: None, package="fake_launch").run(2)
        return study, place, wanted


def read_csv(root, name):
    return list(
        csv.DictReader((root / "tables" / f"{name}.csv").read_text().splitlines())
    )


def test_a_second_computation_agrees_to_the_last_printed_digit(finished):
    study, place, wanted = finished
    page.write(gather.gather(study, place, wanted))
    path = ROOT / "experiments" / "generalization" / "recompute.py"
    spec = importlib.util.spec_from_file_location("recompute", path)
    recompute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recompute)
    assert "agentrl" not in path.read_text().split('"""')[2]

    assert recompute.main(place.root) == []

    table = place.root / "tables" / "transfer.csv"
    text = table.read_text()
    rows = [row for row in read_csv(place.root, "transfer") if row["what"] == "change"]
    assert {row["claim"] for row in rows} == {"policies", "recipe"}
    low = rows[0]["low"]
    try:
        table.write_text(text.replace(low, str(float(low) + 0.002)))
        assert len(recompute.main(place.root)) >= 1
    finally:
        table.write_text(text)


def test_the_page_and_its_markdown_say_the_same_and_need_nothing_else(finished):
    study, place, wanted = finished
    path = page.write(gather.gather(study, place, wanted))
    html, markdown = path.read_text(), path.with_suffix(".md").read_text()
    for row in markdown.splitlines():
        if row.startswith("| trained on"):
            for cell in filter(None, map(str.strip, row.strip("|").split("|"))):
                value, bracket, interval = cell.partition(" [")
                shown = f"{value}<small> [{interval}</small>" if bracket else value
                assert f">{shown}</td>" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "hold for these policies on other tasks, not for other seeds" in markdown
    assert "Corrected for the 4 changes of this table (Holm)" in markdown
    changes = [
        row
        for row in read_csv(place.root, "transfer")
        if row["what"] == "change" and row["measure"] == "success"
    ]
    assert all(float(row["p_holm"]) >= float(row["p"]) for row in changes)
    (kept,) = {r["own_stage"] for r in read_csv(place.root, "forgetting")}
    assert kept == "grpo_a"  # the other one's own stage is the last


def test_what_is_not_done_is_a_hole(finished, tmp_path, monkeypatch):
    study = small_study.make_study()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
    wanted, place = graph.build(study), folder.Folder(tmp_path)
    empty = tables.make(gather.gather(study, place, wanted))
    assert not empty["results"] and len(empty["costs"]) == 4
    page.write(gather.gather(study, place, wanted))

    crew = work.Crew(place, wanted, say=lambda _: None, package="fake_launch")
    crew.max_nodes = 2
    crew.run(1)
    shown = page.write(gather.gather(study, place, wanted)).with_suffix(".md")
    assert "2 of 4 nodes are not done yet" in shown.read_text()
    assert "trained on babyai | \N{EM DASH} |" in shown.read_text()
    assert "Fewer than 3 seeds" in shown.read_text()


def test_levels_of_more_seeds_than_changes_are_named():
    levels = [{"seed": seed} for seed in ("0", "1", "all")]
    both, one = ({"cell": "babyai", "seeds": seeds} for seeds in ("0 1", "0"))

    assert page._tell_seeds(levels, [both]) == ""
    assert "seeds 0 1, changes" in page._tell_seeds(levels, [one])
    assert page._tell_seeds(levels, [one]).endswith("done: babyai 0.")
