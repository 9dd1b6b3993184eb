"""What a page says of studies that are done in part, or of few seeds."""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import json
import pathlib
import types

import pytest
import small_study

from agentrl import config, errors
from agentrl.findings import gather, tables
from agentrl.statistics import summaries
from agentrl.study import folder, graph, spec
from agentrl.study_page import answers, background, blocks, charts, page, values

ROOT = pathlib.Path(__file__).parents[2]
WARM, A, B = small_study.make_study().cells[2].stages
JOINT = dataclasses.replace(
    A,
    name="joint",
    mixture=config.MixtureConfig(environments=(("textcraft", 1.0), ("babyai", 1.0))),
)
SHUFFLED = dataclasses.replace(A, name="shuffled_textcraft")


def make_cell(axis, name, *stages, **changes):
    return spec.Cell(axis=axis, name=name, stages=(WARM, *stages), **changes)


def leave(root, cells, seeds=(0,), lacks=(), **changes):
    """A study's findings; all nodes are done but those of (cell key, seed, length)."""
    study = dataclasses.replace(
        small_study.make_study(seeds=seeds, **changes), cells=cells
    )
    wanted, place = graph.build(study), folder.Folder(root)
    place.claim_study(study, wanted, write=True)
    kept = {
        name
        for (cell, seed), chain in wanted.chains.items()
        for length, name in enumerate(chain, start=1)
        if not any((cell, seed) == lack[:2] and length >= lack[2] for lack in lacks)
    }
    done = {name: node for name, node in wanted.nodes.items() if name in kept}
    small_study.leave_all(place, dataclasses.replace(wanted, nodes=done))
    return gather.gather(study, place, wanted)


def write(found):
    """The page as Markdown."""
    return page.write(found).with_suffix(".md").read_text()


def read_csv(root, name):
    return list(
        csv.DictReader((root / "tables" / f"{name}.csv").read_text().splitlines())
    )


def recompute(root):
    """Differences of a second computation; every row has to be covered."""
    path = ROOT / "experiments" / "generalization" / "recompute.py"
    loaded = importlib.util.spec_from_file_location("recompute", path)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        wrong = module.main(root)
    assert "; 0 rows not covered" in printed.getvalue()
    return wrong


def test_a_second_computation_agrees_on_forward_transfer(tmp_path):
    """TextCraft has its own stage last; before its first, nothing was trained."""
    again = dataclasses.replace(A, name="grpo_a_again")
    write(leave(tmp_path, (make_cell("sequence", "a>b>a", A, B, again),)))
    assert recompute(tmp_path) == []

    rows = [r for r in read_csv(tmp_path, "results") if r["measure"] == "success"]
    warm, after = (
        next(r for r in rows if (r["stage"], r["env"]) == (stage, "babyai"))
        for stage in ("warm", "grpo_a")
    )
    (forward,) = [
        r
        for r in read_csv(tmp_path, "transfer")
        if (r["what"], r["measure"], r["claim"]) == ("forward", "success", "policies")
    ]
    change = float(after["mean"]) - float(warm["mean"])
    assert abs(float(forward["mean"]) - change) < 1e-12


def test_panels_are_told_whole():
    """Cells on easy and hard tasks are evaluated on all, where others are on easy ones."""
    study = small_study.make_study()
    easy = dataclasses.replace(study.base.evaluation, tier="easy")
    study = dataclasses.replace(
        study, base=dataclasses.replace(study.base, evaluation=easy)
    )
    row = {"axis": "within", "env": "babyai", "variant": "", "samples": 8}
    sizes = {"all": 64, "easy": 40, "hard": 24}
    made = {
        "costs": [],
        "results": [
            {**row, "tier": tier, "tasks": tasks, "panel": "9f3a"}
            for tier, tasks in sizes.items()
        ],
    }
    found = types.SimpleNamespace(study=study)
    *_, table = background.describe_provenance(found, made)
    assert table.rows == [["babyai", "9f3a", "64", "8"]]


def test_curves_of_policies_that_share_a_stage_name_are_apart(tmp_path):
    """A comes first or second, and shorter; only seeds of one chain share a chart."""
    short = dataclasses.replace(A, num_iterations=2)
    cells = (
        make_cell("across", "textcraft", A),
        make_cell("sequence", "b>a", B, A),
        make_cell("within", "textcraft easy>hard", short, B),
    )
    found = leave(tmp_path, cells, seeds=(0, 1))
    made = tables.make(found)
    charts = list(page._curves(made))
    captions = [chart.caption for chart in charts]
    assert [caption.partition(":")[0] for caption in captions] == [
        "warm > grpo_a",
        "warm > grpo_b",
        "warm > grpo_b > grpo_a",
        "warm > grpo_a",
        "warm > grpo_a > grpo_b",
    ]
    assert "3 iterations" in captions[0] and "2 iterations" in captions[3]
    assert all(chart.svg.count("<polyline") == 2 for chart in charts)
    of_chart = {}
    for row in made["learning"]:
        key = (row["shape"], row["env"], row["seed"], row["iteration"])
        of_chart.setdefault(key, []).append(row["node"])
    assert all(len(nodes) == 1 for nodes in of_chart.values())


def test_ways_of_training_on_easy_and_hard_tasks_are_compared(tmp_path):
    easy, hard, mixed = (
        dataclasses.replace(A, name=f"grpo_textcraft_{tier}")
        for tier in ("easy", "hard", "mixed")
    )
    half_easy, half_hard = (
        dataclasses.replace(stage, num_iterations=1) for stage in (easy, hard)
    )
    chains = {
        "textcraft easy": (easy,),
        "textcraft hard": (hard,),
        "textcraft mixed": (mixed,),
        "textcraft easy>hard": (half_easy, half_hard),
        "textcraft hard>easy": (half_hard, half_easy),
        "babyai easy": (dataclasses.replace(B, name="grpo_babyai_easy"),),
    }
    cells = tuple(make_cell("within", name, *chain) for name, chain in chains.items())
    lacks = [
        ("within/textcraft hard>easy", 0, 3),
        ("within/textcraft hard>easy", 1, 3),
        ("within/textcraft mixed", 1, 2),
        ("within/babyai easy", 0, 2),
        ("within/babyai easy", 1, 2),
    ]
    text = write(leave(tmp_path, cells, seeds=(0, 1), lacks=lacks))
    section = text[text.index("## Easy and hard") :].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    first = [line.split(" | ")[0].strip("| ") for line in lines]
    assert first[1:] == [
        "(warm)", "easy", "hard", "mixed", "easy>hard", "hard>easy",
        "easy less hard", "easy>hard less mixed",
    ]  # fmt: skip
    hole = f"| hard>easy | {blocks.HOLE} | {blocks.HOLE} |"
    # The made-up panels hold easy tasks alone.
    assert hole in lines and lines[1].count("[") == 1
    assert "Seeds: before 0 1, easy 0 1, hard 0 1, mixed 0, easy>hard 0 1." in section
    assert f"No training on babyai is done yet ({blocks.HOLE})." in section
    rows = read_csv(tmp_path, "difficulty")
    (curriculum, *_) = [
        row
        for row in rows
        if (row["trained_on"], row["compared_with"]) == ("easy>hard", "mixed")
    ]
    change = float(curriculum["after"]) - float(curriculum["before"])
    assert (
        abs(float(curriculum["mean"]) - change) < 1e-12 and curriculum["seeds"] == "0"
    )
    assert recompute(tmp_path) == []


CELLS = (
    make_cell("across", "textcraft", A),
    make_cell("across", "babyai", B),
    make_cell("sequence", "a>b", A, B),
    make_cell("mixture", "equal", JOINT),
)


def test_cells_of_one_seed_are_shown_beside_those_of_three(tmp_path):
    lacks = [("across/babyai", seed, 2) for seed in (1, 2)]
    text = write(leave(tmp_path, CELLS, seeds=(0, 1, 2), lacks=lacks))
    assert "Training on textcraft changed success on itself" in text
    assert "Training on babyai changed success on itself" in text
    (row, _) = [line for line in text.splitlines() if "trained on babyai" in line]
    assert blocks.HOLE not in row
    assert "not for other seeds: there are fewer than 3" in text


def test_each_axis_is_told_by_its_own_seeds(tmp_path):
    lacks = [("sequence/a>b", seed, 3) for seed in (1, 2)]
    found = leave(tmp_path, CELLS, seeds=(0, 1, 2), lacks=lacks)
    text = write(found)
    assert "Fewer than 3 seeds in cells of sequence: what follows of it" in text
    assert "the order a>b" in text.casefold()
    rows = select_success(found, axis="across", what="held_in")
    recipe, policies = (
        next(r for r in rows if r["claim"] == claim) for claim in ("recipe", "policies")
    )
    assert recipe["low"] != policies["low"]
    assert f"itself (Held-In) by {tell(recipe)}" in text


def test_gaps_name_the_seeds_that_both_have(tmp_path):
    """Three seeds of an order, one of joint training: there is no gap of a recipe."""
    lacks = [("mixture/equal", seed, 2) for seed in (1, 2)]
    found = leave(tmp_path, CELLS, seeds=(0, 1, 2), lacks=lacks)
    text = write(found)
    (gap,) = select_success(found, what="gap_to_joint")
    assert (gap["claim"], gap["seeds"]) == ("policies", "0")
    told = " Seeds: a>b 0 1 2, gap to joint of a>b 0."
    assert told == values.tell_differing(select_success(found, axis="sequence"))
    assert "the order a>b" in text.casefold()


def test_a_gap_is_told_with_its_sign():
    gap = {
        **dict.fromkeys(("env", "p_holm"), ""),
        **{"axis": "sequence", "cell": "a>b", "what": "gap_to_joint"},
        **{"measure": "success", "claim": "policies", "seeds": "0"},
    }
    lacks = gap | {"mean": 0.042, "low": 0.01, "high": 0.08}
    leads = gap | {"mean": -0.042, "low": -0.08, "high": -0.01}
    open_ = gap | {"mean": -0.01, "low": -0.05, "high": 0.03}
    start = "Against joint training with as many episodes, the order a>b ended at "
    for row, told in (
        (lacks, "-4.2 points [-8.0, -1.0]."),
        (leads, "+4.2 points [+1.0, +8.0]."),
        (open_, "+1.0 points [-3.0, +5.0] (not called a difference)."),
    ):
        assert list(answers.describe([row]))[-1] == start + told


def test_tables_of_differences_say_whether_they_are_corrected(tmp_path):
    cells = (*CELLS, make_cell("control", "shuffled textcraft", SHUFFLED))
    found = leave(tmp_path, cells)
    sections = dict(page.build(found, tables.make(found)))
    first = sections["Answers"][-1].sentences
    assert "Intervals are not corrected for several comparisons" in first[1]
    titles = (
        *("One environment, tested on all", "Sequences and pairs", "Drift", "Mixtures"),
        "Controls",
    )
    notes = [
        block.note
        for title in titles
        for block in sections.get(title, ())
        if isinstance(block, blocks.Table) and "Success in %" not in block.note
    ]
    assert len(notes) == 6
    assert all("(Holm)" in n or values.NOT_CORRECTED in n for n in notes)
    (note,) = (n.note for n in sections["Controls"])
    assert "Corrected for the 2 changes of this table (Holm)" in note


def test_controls_are_told_corrected():
    control = {
        **{"axis": "control", "cell": "shuffled babyai", "env": "babyai"},
        **{"what": "change", "measure": "success", "claim": "policies", "seeds": "0"},
        **{"mean": -0.3, "low": -0.4, "high": -0.2},
    }
    for corrected, told in (
        (0.01, "also when corrected for all changes of the axis."),
        (0.2, "but not when corrected for all changes of the axis."),
    ):
        *_, last = answers.describe([control | {"p_holm": corrected}])
        assert last.endswith(f"by -30.0 points [-40.0, -20.0], {told}")


def test_unfinished_orders_are_holes(tmp_path):
    """b>a shares its first stages with babyai's cell, so they are done."""
    cells = (*CELLS, make_cell("sequence", "b>a", B, A))
    cells += (
        make_cell("mixture", "adaptive", dataclasses.replace(JOINT, name="more")),
    )
    lacks = [(key, 0, 3) for key in ("sequence/b>a",)]
    lacks += [("mixture/adaptive", 0, 2)]
    text = write(leave(tmp_path, cells, lacks=lacks))
    hole = blocks.HOLE
    section = text[text.index("| b>a | textcraft") :]
    rows = [line.split(" | ")[0] for line in section.splitlines()[2:5]]
    assert rows == ["| warm", "| grpo_b", "| grpo_a"]
    assert section.splitlines()[4] == f"| grpo_a | {hole} | {hole} |"
    assert f"| b>a |{f' {hole} |' * 7}" in text  # of orders
    assert f"| b>a | {hole} | {hole} |" in text  # of what is forgotten
    assert f"| adaptive | {hole} | {hole} | {hole} | {hole} |" in text
    assert "brackets" not in text and "Seeds:" not in text


def test_stages_of_different_seeds_say_so(tmp_path):
    cells = (*CELLS, make_cell("sequence", "b>a", B, A))
    lacks = [("sequence/a>b", seed, 3) for seed in (1, 2)]
    found = leave(tmp_path, cells, seeds=(0, 1, 2), lacks=lacks)
    text = write(found)
    section = text[text.index("| a>b | textcraft") :]
    rows = [line.split(" | ")[0] for line in section.splitlines()[2:5]]
    assert rows == ["| warm (of 0 1 2)", "| grpo_a (of 0 1 2)", "| grpo_b (of 0)"]
    assert "In brackets the seeds that have done a stage" in section.splitlines()[6]
    whole = text[text.index("| b>a | textcraft") :].splitlines()
    assert whole[2].startswith("| warm | ") and "brackets" not in whole[6]
    assert text.count(" Seeds: a>b 0, b>a 0 1 2.") == 2
    matrix = found.find("sequence/a>b").matrix
    assert ">not_done<" in charts.draw_chain(matrix, ["babyai"], ["warm", "not_done"])


def select_success(found, **wanted):
    rows = tables.make(found)["transfer"]
    return values.select(rows, measure="success", **wanted)


def tell(row):
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return f"{mean:+z.1f} points [{low:+z.1f}, {high:+z.1f}]"


def rewrite(place, node, stage, env, **changes):
    """Changes fields of a stored evaluation, which other nodes may share as a file."""
    (path,) = (place.workdir(node) / "evaluations").glob(f"{stage}.{env}.*.json")
    stored = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps(stored))


def test_a_stage_that_is_to_be_tested_again_keeps_its_place(tmp_path):
    """Another cell asks for a variant of a node that the sequence has gone on from."""
    study = small_study.make_study(drift_samples=2)
    before = write(leave(tmp_path, study.cells[:1] + study.cells[2:], drift_samples=2))
    variant = spec.Variant(name="turns_20", flags=("--max_turns=20",))
    first = dataclasses.replace(study.cells[0], variants=(variant,))
    later = dataclasses.replace(study, cells=(first, study.cells[2]))
    place, wanted = folder.Folder(tmp_path), graph.build(later)
    assert list(place.states(wanted).values()) == ["done", "ready", "done"]
    after = write(gather.gather(later, place, wanted))
    for title in ("## Sequences and pairs", "| sequence/a>b | grpo_a | start"):
        (old, new) = (
            text[text.index(title) :].split("\n\n")[0] for text in (before, after)
        )
        assert old == new
    assert recompute(tmp_path) == []


def test_seeds_on_different_tasks_are_refused(tmp_path):
    found = leave(tmp_path, CELLS, seeds=(0, 1))
    node = found.find("across/babyai").chains[1][-1]
    rewrite(found.place, node, "warm", "textcraft", panel_digest="other")
    with pytest.raises(
        errors.ConfigError, match="different tasks, digest 0 with seed 0"
    ):
        gather.gather(found.study, found.place, found.wanted)
    first, second = (
        found.find("across/textcraft").matrix.cells[seed, "warm", "textcraft"]
        for seed in (0, 1)
    )
    summaries.average([first, second])
    with pytest.raises(errors.ConfigError, match="different tasks"):
        summaries.average([first, dataclasses.replace(second, panel_digest="other")])


def test_before_and_after_are_of_the_same_seeds(tmp_path):
    lacks = [("across/textcraft", 1, 2), ("sequence/a>b", 1, 2)]
    found = leave(tmp_path, CELLS, seeds=(0, 1), lacks=lacks, drift_samples=2)
    node = found.find("across/textcraft").chains[1][0]
    rewrite(found.place, node, "warm", "textcraft", turns=[[99.0] * 4] * 12)
    found = gather.gather(found.study, found.place, found.wanted)
    text = write(found)
    section = text[text.index("## Turns and tokens") :].split("\n## ")[0]
    (row,) = (line for line in section.splitlines() if line.startswith("| textcraft"))
    assert "99" not in row and "50" not in row


def test_drift_of_different_seeds_says_so_and_is_of_these_policies(tmp_path):
    lacks = [("sequence/a>b", 2, 3)]
    found = leave(tmp_path, CELLS, seeds=(0, 1, 2), lacks=lacks, drift_samples=2)
    text = write(found)
    section = text[text.index("## Drift") :].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines()]
    of_order = [row[1] for row in rows if row[0] == "| sequence/a>b"]
    assert of_order[:2] == ["grpo_a (of 0 1 2)", "grpo_b (of 0 1)"]

    whole = leave(tmp_path / "whole", CELLS, seeds=(0, 1, 2), drift_samples=2)
    made = tables.make(whole)
    for row in values.select(made["forgetting"], claim="recipe"):
        row |= {"mean": 9.99, "low": 9.98, "high": 10.0}
    (table,) = page._drift(whole, made)
    assert "policies on other tasks" in table.note and "999" not in str(table.rows)


def test_without_a_warm_start_the_untrained_policy_is_shown_once(tmp_path):
    cells = tuple(
        spec.Cell(axis="across", name=env, stages=(stage,))
        for env, stage in (("textcraft", A), ("babyai", B))
    )
    evaluation = small_study.make_study().base.evaluation
    evaluation = dataclasses.replace(evaluation, before_training=True)
    lacks = [("across/textcraft", 0, 1)]
    text = write(leave(tmp_path, cells, lacks=lacks, evaluation=evaluation))
    section = text[text.index("## One environment") :].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line[:2] == "| "]
    assert rows[1:4] == ["| untrained", "| trained on textcraft", "| trained on babyai"]
    assert "changes against untrained in points" in section
