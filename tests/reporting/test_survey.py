import dataclasses

import fake_run
import pytest
from played import act, play

from agentrl import errors
from agentrl.envs import base
from agentrl.reporting import survey, tables
from agentrl.statistics import results, transfer
from agentrl.transcripts import episodes, failures


def make_settings(*names):
    settings = fake_run.make_settings()
    stages = [dataclasses.replace(settings.stages[2], name=name) for name in names]
    return dataclasses.replace(settings, stages=tuple(stages))


def make_episode(stage, *, item=0, sample=0, tags=("timeout",), env="textcraft"):
    trajectory = fake_run.make_trajectory(
        env, item=item, sample=sample, success=not tags
    )
    stored = episodes.from_trajectory(
        trajectory, stage=stage, iteration=8, env_config=base.EnvConfig()
    )
    return dataclasses.replace(stored, failures=tags)


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../up", "a*", "a?", "[a]", "a b", " a", "a\n", ".hidden", "-x", "ä",
     "evaluation.a", "a" * 101],
)  # fmt: skip
def test_stage_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(errors.ConfigError, match=r"stage name .* would do") as caught:
        make_settings(name).stages[0].validate("stage")
    suggestion = str(caught.value).rpartition("; ")[2].split("'")[1]
    make_settings(suggestion).stages[0].validate("stage")


@pytest.mark.parametrize(
    "name", ["a", "a.2", "grpo_textcraft", "RL-2", "my_evaluation.x"]
)
def test_stage_names_that_work(name):
    make_settings(name).stages[0].validate("stage")


def test_shares_are_of_failed_episodes_and_their_intervals_of_tasks():
    found = survey.Survey()
    for item in range(20):
        for sample in range(4):
            tags = () if sample == 3 else ("timeout",)
            if item < 5 and tags:
                tags = ("repeat_loop", *tags)
            found.add(make_episode("a", item=item, sample=sample, tags=tags), "f:1")

    shares = {one.tag: one for one in found.shares("a", "textcraft")}

    assert shares["timeout"].share.mean == 1
    assert shares["repeat_loop"].share.mean == 0.25
    assert shares["repeat_loop"].count == 15
    # Episodes of a task agree: 20 tasks, not 60 episodes.
    width = shares["repeat_loop"].share.high - shares["repeat_loop"].share.low
    assert width > 0.35
    assert shares["confirmation_bias"].share is None  # no rule can see it in TextCraft
    assert shares["fabrication"].share.high > 0
    assert found.shares("a", "babyai") == []


def test_examples_are_drawn_by_hash_and_not_by_place():
    stored = [make_episode("a", item=index) for index in range(40)]
    orders = (stored, stored[::-1])
    drawn = []
    for order in orders:
        found = survey.Survey()
        for episode in order:
            found.add(episode, f"f:{episode.item_id}")
        examples = found.find_examples("a", "textcraft", "timeout")
        drawn.append([example.episode.item_id for example in examples])

    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == survey.EXAMPLES
    assert drawn[0] not in (
        [e.item_id for e in stored[:3]],
        [e.item_id for e in stored[-3:]],
    )


def test_failure_tables_show_stages_side_by_side():
    found = survey.Survey()
    for stage, action in (("a", "turn left"), ("b", "get 1 dirt")):
        episode = play("textcraft", ("Goal: craft.", act(action), False), "no")
        stored = dataclasses.replace(failures.tag(episode), stage=stage)
        for item in range(5):
            found.add(dataclasses.replace(stored, item_id=f"t_{item}"), f"x/f:{item}")

    ((env, stages, rows),) = tables.failure_tables(found, make_settings("a", "b"))

    by_tag = {tag: [cell.text for cell in cells] for tag, cells in rows}
    assert (env, stages) == ("textcraft", ["a", "b"])
    assert by_tag["foreign_action"] == ["100.0", "0.0"]
    assert by_tag["fabrication"] == ["0.0", "100.0"]
    assert by_tag["confirmation_bias"] == ["not detectable"] * 2
    assert "premature_stop" not in by_tag
    cell = dict(rows)["foreign_action"][0]
    assert "5 episodes" in cell.note
    assert len(cell.links) == survey.EXAMPLES


def test_tables_of_several_seeds_make_both_claims():
    settings = fake_run.make_settings()
    matrix = transfer.to_matrix(
        {
            seed: [
                fake_run.make_result(stage, step, "textcraft", rate)
                for step, (stage, rate) in enumerate(
                    [("warm", 0.25), ("textcraft", last)]
                )
            ]
            for seed, last in enumerate((0.5, 0.75, 1.0))
        }
    )

    rows = dict(tables.gain_rows(matrix, settings))

    assert set(rows) == {"textcraft, these policies", "textcraft, this recipe"}
    policies, recipe = (cells[0] for cells in rows.values())
    assert policies.text == recipe.text == "+50.0"
    assert policies.emphasis and not recipe.emphasis  # three seeds of +25, +50, +75
    assert "3 seeds" in tables.claim_note(matrix)
    ((_, columns, summary), _) = tables.transfer_tables(matrix, settings)
    assert columns == ["these policies", "this recipe", "smallest callable"]
    assert dict(summary)["Held-In"][0].text == "+50.0"


def test_gains_are_of_what_came_after_the_warm_start():
    settings = fake_run.make_settings()
    stages = {results.UNTRAINED_STAGE: 0.0, "warm": 0.25, "textcraft": 0.75}
    matrix = transfer.to_matrix(
        {
            0: [
                fake_run.make_result(stage, step, "textcraft", rate)
                for step, (stage, rate) in enumerate(stages.items())
            ]
        }
    )
    assert [label for label, _ in tables.gain_rows(matrix, settings)] == ["textcraft"]


def test_subsets_have_tables_of_their_own():
    settings = fake_run.make_settings()
    result = fake_run.make_result("warm", 8, "textcraft", 0.5, tasks=400)

    ((panel, subsets, rows),) = tables.subset_tables(
        transfer.to_matrix({0: [result]}), settings
    )

    assert panel == "textcraft"
    assert subsets[0] == "depth_1" and len(subsets) > 1
    assert [cell.text for cell in rows[0][1]] == ["50.0"] * len(subsets)


def test_the_score_has_a_table_where_it_differs():
    result = fake_run.make_result("warm", 8, "textcraft", 0.5)
    score = tuple((0.75,) * len(row) for row in result.score)

    text = tables.format_table([dataclasses.replace(result, score=score)])

    assert "avg@4 of the score in %, with 95 % intervals over tasks" in text
    assert isinstance(result, results.EvaluationResult)
    assert text.count("textcraft") >= 3
    assert "75.0" in text
