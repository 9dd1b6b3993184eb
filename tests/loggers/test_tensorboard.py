"""What TensorBoard gets besides scalars over the optimizer step."""

import pathlib

import fake_run
from tensorboardX.proto import event_pb2

from agentrl import types
from agentrl.reporting import metrics

SETTINGS = fake_run.make_settings(num_iterations=2)


def read_events(folder):
    """Reads files of length-prefixed records, as TensorBoard does."""
    for path in sorted(pathlib.Path(folder).glob("events*")):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def values_in(folder):
    return [(e.step, v) for e in read_events(folder) for v in e.summary.value]


def test_texts_and_histograms(tmp_path):
    fake_run.write_iterations(tmp_path, SETTINGS, last=3)

    found = [(step, v) for step, v in values_in(tmp_path / "tensorboard") if step == 3]
    (text,) = [v for _, v in found if v.tag.startswith("samples/textcraft")]
    assert text.metadata.plugin_data.plugin_name == "text"
    shown = text.tensor.string_val[0].decode()
    assert "Goal: craft stick." in shown and "get 1 dirt" in shown
    # Verbatim: what an environment says must not become Markdown.
    assert all(line.startswith("    ") for line in shown.splitlines())
    (returns,) = [v.histo for _, v in found if v.tag == "histogram/return"]
    assert returns.num == 4 and returns.max == 1


def test_curves_over_environment_steps_and_tokens(tmp_path):
    fake_run.write_iterations(tmp_path, SETTINGS)
    folder = tmp_path / "tensorboard"

    over_steps = [
        (step, v.simple_value)
        for step, v in values_in(folder / "by_env_steps")
        if v.tag == "rollout/success"
    ]
    over_updates = [
        (step, v.simple_value)
        for step, v in values_in(folder)
        if v.tag == "rollout/success"
    ]
    # The first two iterations are supervised; 4 episodes of one turn for each environment.
    assert [step for step, _ in over_updates] == [3, 4, 5, 6]
    assert [step for step, _ in over_steps] == [4, 8, 16, 24]
    assert [x for _, x in over_steps] == [x for _, x in over_updates]
    assert not [v for _, v in values_in(folder / "by_tokens") if "policy" in v.tag]


def test_a_resumed_run_repeats_no_point_of_any_axis(tmp_path):
    fake_run.write_iterations(tmp_path, SETTINGS)
    with metrics.Writer(tmp_path, SETTINGS) as writer:
        writer.resume(types.Progress(1, "textcraft", 1), step=3)
        values, trajectories = fake_run.make_iteration(SETTINGS.stages[1], 3)
        writer.write(
            types.Progress(1, "textcraft", 2), step=4,
            values=values, trajectories=trajectories,
        )  # fmt: skip

    starts = {}
    for name in ("", "by_env_steps", "by_tokens"):
        sessions = [
            event.step
            for event in read_events(tmp_path / "tensorboard" / name)
            if event.session_log.status == event.session_log.START
        ]
        starts[name] = sessions[-1]
    tokens = sum(
        t.num_tokens for t in fake_run.make_iteration(SETTINGS.stages[1], 2)[1]
    )
    assert starts == {"": 4, "by_env_steps": 5, "by_tokens": tokens + 1}
