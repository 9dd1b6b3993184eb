import dataclasses
import json
import math

import fake_run
import pytest
from tensorboardX.proto import event_pb2

from agentrl import errors, types
from agentrl.envs import base
from agentrl.loggers import tensorboard
from agentrl.reporting import metrics, silence
from agentrl.transcripts import episodes, jsonl

SETTINGS = fake_run.make_settings(num_iterations=3)


def test_summary_by_hand():
    make = fake_run.make_trajectory
    trajectories = [
        # Group 0: one success of two, so its returns differ.
        make("textcraft", group=0, sample=0, actions=("get 1 dirt", "x"), reward=2.0),
        make("textcraft", group=0, sample=1, success=False, actions=("get 1 dirt",)),
        # Group 1: equal returns, different text.
        make("babyai", group=1, sample=0),
        make("babyai", group=1, sample=1, actions=("turn left",), valid=False),
        # Group 2: the same twice.
        make("babyai", group=2, sample=0),
        make("babyai", group=2, sample=1),
        # Lost by their environment: in the endings, in no mean, in no group.
        make("babyai", group=3, success=False, ending=types.Ending.ENV_ERROR),
        make("babyai", group=3, success=False, ending=types.Ending.ENV_TIMEOUT),
    ]

    values = metrics.summarize_trajectories(trajectories)

    assert values["rollout/return"] == pytest.approx((2 + 0 + 4) / 6)
    assert values["rollout/success"] == pytest.approx(5 / 6)
    assert values["rollout/turns"] == pytest.approx(7 / 6)
    assert values["rollout/valid_action_fraction"] == pytest.approx(6 / 7)
    assert values["rollout/ending/solved"] == pytest.approx(5 / 8)
    assert values["rollout/ending/max_turns"] == pytest.approx(1 / 8)
    assert values["rollout/ending/env_error"] == pytest.approx(1 / 8)
    assert values["rollout/ending/env_timeout"] == pytest.approx(1 / 8)
    assert values["rollout/ending/failed"] == 0
    assert values["rollout/zero_variance_groups"] == pytest.approx(2 / 3)
    assert values["rollout/identical_groups"] == pytest.approx(1 / 3)
    assert values["env/textcraft/success"] == 0.5
    assert values["env/babyai/return"] == 1.0
    lengths = [len(b"Action:\nget 1 dirt")] * 5 + [
        len(b"Action:\nx"), len(b"Action:\nturn left")
    ]  # fmt: skip
    assert values["rollout/action_tokens"] == pytest.approx(sum(lengths) / 6)
    observed = 7 * len("Goal: craft stick.")
    assert values["rollout/tokens"] == pytest.approx((sum(lengths) + observed) / 6)


def test_summary_of_nothing_is_not_a_number_but_does_not_fail():
    lost = fake_run.make_trajectory(success=False, ending=types.Ending.ENV_ERROR)

    values = metrics.summarize_trajectories([lost])

    assert math.isnan(values["rollout/return"])
    assert values["rollout/ending/env_error"] == 1


def read_all(workdir):
    files = [
        workdir / metrics.FILE,
        *sorted((workdir / episodes.FOLDER).glob("*.jsonl")),
    ]
    return {path.name: path.read_bytes() for path in files}


# Nine iterations, three in each stage; the first stage has no episodes.
@pytest.mark.parametrize(
    ("killed_after", "resumed_at"),
    [(0, 0), (2, 0), (3, 3), (4, 2), (5, 4), (5, 5), (7, 3), (8, 1), (8, 6), (9, 8)],
)
def test_resumed_run_leaves_the_files_of_an_uninterrupted_one(
    tmp_path, killed_after, resumed_at
):
    fake_run.write_iterations(tmp_path / "whole", SETTINGS)
    killed = tmp_path / "killed"

    fake_run.write_iterations(killed, SETTINGS, last=killed_after)
    unfinished = [killed / metrics.FILE]
    if killed_after >= 3:
        stage = SETTINGS.stages[min(killed_after, 8) // 3]
        unfinished.append(killed / "episodes" / f"{stage.name}.jsonl")
    for path in unfinished:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b'{"stage": "unfinis')
    fake_run.write_iterations(killed, SETTINGS, first=resumed_at)

    assert read_all(killed) == read_all(tmp_path / "whole")


def test_lines_say_where_they_belong_and_hold_no_nan(tmp_path):
    with metrics.Writer(tmp_path, SETTINGS, clock=lambda: 1.5e9) as writer:
        writer.write(
            types.Progress(stage=1, stage_name="textcraft", iteration=3),
            step=12,
            values={"a": float("nan"), "b": math.inf, "c": 0.5, "d": 3},
            trajectories=[fake_run.make_trajectory(success=False)],
        )

    (line,) = (tmp_path / metrics.FILE).read_text().splitlines()
    assert json.loads(line) == {
        "stage_index": 1, "stage": "textcraft", "iteration": 2, "step": 12,
        "wall_time": 1.5e9,
        "a": None, "b": None, "c": 0.5, "d": 3,
        "progress/episodes": 1, "progress/env_steps": 1,
        "progress/tokens": len("Goal: craft stick." + "Action:\nget 1 dirt"),
        "time/elapsed": 0,
    }  # fmt: skip
    (stored,) = episodes.read(tmp_path / "episodes" / "textcraft.jsonl")
    assert stored.config == {
        "profile": "strict", "list_actions": "native", "max_turns": 20, "options": {},
    }  # fmt: skip
    assert (stored.iteration, stored.failures) == (2, ("timeout",))


def test_events_reach_tensorboard(tmp_path):
    fake_run.write_iterations(tmp_path, SETTINGS, last=4)

    (path,) = (tmp_path / "tensorboard").glob("events*")
    expected = [("policy/loss", n, pytest.approx(2.0 / n)) for n in range(1, 5)]
    assert losses_in(path) == expected


def losses_in(path):
    return [
        (value.tag, event.step, value.simple_value)
        for event in read_events(path)
        for value in event.summary.value
        if value.tag == "policy/loss"
    ]


def test_events_are_on_disk_when_an_iteration_is_recorded(tmp_path):
    # A checkpoint may be saved next, and the process killed: nothing may be in a queue.
    with metrics.Writer(tmp_path, SETTINGS) as writer:
        for step in range(1, 4):
            writer.write(
                types.Progress(stage=0, stage_name="warm", iteration=step),
                step=step,
                values={"policy/loss": 2.0, **{f"x/{n}": 0.0 for n in range(50)}},
                trajectories=[],
            )
            (path,) = (tmp_path / "tensorboard").glob("events*")
            assert len(losses_in(path)) == step


def test_a_resumed_run_makes_tensorboard_forget_what_is_repeated(tmp_path):
    fake_run.write_iterations(tmp_path, SETTINGS, last=4)
    (first,) = (tmp_path / "tensorboard").glob("events*")
    with metrics.Writer(tmp_path, SETTINGS) as writer:
        progress = types.Progress(stage=0, stage_name="warm", iteration=2)
        writer.resume(progress, step=2)
        progress = types.Progress(stage=0, stage_name="warm", iteration=3)
        writer.write(progress, step=5, values={}, trajectories=[])

    (second,) = set((tmp_path / "tensorboard").glob("events*")) - {first}
    (start,) = [e for e in read_events(second) if e.session_log.status]
    assert (start.session_log.status, start.step) == (start.session_log.START, 3)


def remove_lines(path, numbers):
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for n, line in enumerate(lines, start=1) if n not in numbers]
    path.write_bytes(b"".join(kept))


def resume_at(workdir, stage, iteration):
    name = SETTINGS.stages[stage].name
    with metrics.Writer(workdir, SETTINGS) as writer:
        progress = types.Progress(stage=stage, stage_name=name, iteration=iteration)
        writer.resume(progress, step=3 * stage + iteration)


def test_missing_lines_are_named_at_opening(tmp_path, capsys):
    fake_run.write_iterations(tmp_path, SETTINGS)
    path = tmp_path / metrics.FILE
    remove_lines(path, {2, 3, 5})

    resume_at(tmp_path, 2, 1)

    printed = capsys.readouterr().out
    assert (
        f"{path} lacks iterations 1 to 2 of stage 'warm', iteration 1 of stage "
        "'textcraft', which" in printed
    )
    assert len(path.read_bytes().splitlines()) == 7 - 3


def test_missing_episodes_are_named_at_opening(tmp_path, capsys):
    fake_run.write_iterations(tmp_path, SETTINGS)
    path = tmp_path / "episodes" / "textcraft.jsonl"
    records = list(jsonl.read(path))
    remove_lines(path, {n for n, r in enumerate(records, 1) if r["iteration"] == 1})

    resume_at(tmp_path, 1, 3)
    assert f"{path} lacks iteration 1 of stage" in capsys.readouterr().out
    resume_at(tmp_path, 1, 1)
    assert "lacks" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "content", "message"),
    [
        (3, b'{"stage_ind\n', r"metrics.jsonl:3 is not JSON"),
        (3, b'{"stage_index": 1}\n', "no record of an iteration"),
        (3, b'{"stage_index": 0, "iteration": "x"}\n', "no record of an iteration"),
        (3, b'{"stage_index": 0, "iteration": 0}\n', "3 is of iteration 0 of stage"),
    ],
)
def test_damage_is_found_at_opening(tmp_path, line, content, message):
    fake_run.write_iterations(tmp_path, SETTINGS)
    path = tmp_path / metrics.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = content
    path.write_bytes(b"".join(lines))

    with pytest.raises(errors.DamagedFileError, match=message):
        resume_at(tmp_path, 2, 2)


def test_a_run_that_learns_nothing_says_so():
    watch = silence.SilenceWatch(patience=3)
    useless = {"rollout/zero_variance_groups": 1.0, "optimizer/grad_norm": 0.0}
    said = [watch.observe("a", n, useless) for n in range(2)]
    said += [watch.observe("a", 2, {"rollout/zero_variance_groups": 0.5})]
    said += [watch.observe("a", n, useless) for n in range(3, 6)]
    assert said[:5] == [""] * 5
    assert (
        "stage 'a', iteration 5: nothing has been learned for 3 iterations" in said[5]
    )
    assert "rollout/zero_variance_groups = 1" in said[5]
    said = [watch.observe("b", n, {"optimizer/grad_norm": 0.0}) for n in range(4)]
    assert said[:2] == ["", ""] and "gradient is zero" in said[2] and not said[3]


def test_evaluations_reach_tensorboard_at_the_step_of_their_policy(tmp_path):
    result = fake_run.make_result("warm", 7, "babyai", 0.75)
    rows = ((True, False, None), (None, None, None), (True, True, True))
    result = dataclasses.replace(
        result,
        item_ids=("babyai_0", "babyai_1", "babyai_2"),
        success=rows,
        score=((0.5, 0.0, None), rows[1], (1.0, 1.0, 1.0)),
        turns=((3, 5, None), rows[1], (2, 2, 2)),
        tokens=((30, 50, None), rows[1], (20, 20, 20)),
    )
    for _ in range(2):  # the second session finds them there, and makes no file
        with metrics.Writer(tmp_path, SETTINGS) as writer:
            writer.resume(types.Progress(stage_name="warm"), step=7)
            writer.write_evaluations([result])

    (path,) = (tmp_path / "tensorboard").glob("events*")
    points = {
        value.tag: (event.step, value.simple_value)
        for event in read_events(path)
        for value in event.summary.value
    }
    assert points == {
        "evaluation/babyai/success": (7, 0.75),  # the mean of 1/2 and 1
        "evaluation/babyai/score": (7, 0.625),
        "evaluation/babyai/turns": (7, 3.0),
        "evaluation/babyai/tokens": (7, 30.0),
    }


def test_evaluations_that_a_killed_session_did_not_add_are_added(tmp_path):
    stored = [
        fake_run.make_result("warm", 7, env, 0.5) for env in ("babyai", "textcraft")
    ]
    for found in (stored[:1], stored):
        with metrics.Writer(tmp_path, SETTINGS) as writer:
            writer.resume(types.Progress(stage_name="warm"), step=7)
            writer.write_evaluations(found)

    tags = [
        value.tag
        for path in (tmp_path / "tensorboard").glob("events*")
        for event in read_events(path)
        for value in event.summary.value
    ]
    assert len(tags) == len(set(tags)) == 8
    assert tensorboard.find_tags(tmp_path / "tensorboard", step=7) == set(tags)
    assert tensorboard.find_tags(tmp_path / "tensorboard", step=6) == set()

    # A session that repeats the step from before makes tensorboard forget them.
    with metrics.Writer(tmp_path, SETTINGS) as writer:
        writer.resume(types.Progress(stage_name="warm"), step=6)
        writer.write_evaluations(stored[:1])
    assert len(tensorboard.find_tags(tmp_path / "tensorboard", step=7)) == 4


def read_events(path):
    """Reads a file of length-prefixed records, as TensorBoard does."""
    content = path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_stored_episode_reads_back_equal(tmp_path):
    trajectory = fake_run.make_trajectory(
        actions=("get 1 dirt", "täst \ud800 \u2028"), observations=("o", "p\n\x00")
    )
    stored = episodes.from_trajectory(
        trajectory,
        stage="s",
        iteration=4,
        env_config=base.EnvConfig(options={"distractors": 0}),
    )

    episodes.append(tmp_path / "e.jsonl", [stored, stored])

    assert list(episodes.read(tmp_path / "e.jsonl")) == [stored, stored]
    assert stored.results() == ["p\n\x00", "done"]
    assert [t.action_tokens for t in stored.turns] == [
        len(t.action_tokens) for t in trajectory.turns
    ]


def test_an_episode_of_an_older_version_has_no_configuration(tmp_path):
    path = tmp_path / "e.jsonl"
    stored = episodes.from_trajectory(
        fake_run.make_trajectory(), stage="s", iteration=4, env_config=base.EnvConfig()
    )
    record = dataclasses.asdict(stored)
    del record["config"]
    jsonl.append(path, [record])

    assert list(episodes.read(path)) == [dataclasses.replace(stored, config=None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r"x.jsonl:2 is not JSON"),
        (b"[]\n", r"x.jsonl:1 is not a JSON object"),
        (b'{"stage": "s"}\n', "not a stored episode"),
    ],
)
def test_damaged_lines_are_reported(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(errors.DamagedFileError, match=message):
        list(episodes.read(path)) if b"stage" in content else list(jsonl.read(path))


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match=r"repeat the command.*file/x.jsonl"):
        jsonl.append(blocked / "x.jsonl", [{}])
