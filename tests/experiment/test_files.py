import dataclasses
import json

import fake_run
import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl import config, errors
from agentrl.experiment import fields, files

SETTINGS = fake_run.make_settings()


def override(*texts):
    settings = SETTINGS
    for text in texts:
        settings = fields.override(settings, text)
    return settings


@pytest.mark.parametrize(
    ("text", "read", "expected"),
    [
        ("seed=7", lambda s: s.seed, 7),
        ("name=7", lambda s: s.name, "7"),
        ("name='a b'", lambda s: s.name, "a b"),
        ("env_timeout_s=5", lambda s: s.env_timeout_s, 5.0),
        ("model.qkv_bias=False", lambda s: s.model.qkv_bias, False),
        (
            "stages.textcraft.rollout.group_size=16",
            lambda s: s.stages[1].rollout.group_size,
            16,
        ),
        ("stages.1.num_iterations=3", lambda s: s.stages[1].num_iterations, 3),
        (
            "stages.both.mixture.environments.1.1=3",
            lambda s: s.stages[2].mixture.environments[1],
            ("babyai", 3.0),
        ),
        (
            "stages.both.max_turns=[(0, 4), (5, 8)]",
            lambda s: s.stages[2].max_turns,
            ((0, 4), (5, 8)),
        ),
        (
            "stages.both.algorithm.clip_high=None",
            lambda s: s.stages[2].algorithm.clip_high,
            None,
        ),
        (
            "stages.both.rollout.cache_buckets=(512,1024)",
            lambda s: s.stages[2].rollout.cache_buckets,
            (512, 1024),
        ),
        (
            "environments.babyai.options.easy=True",
            lambda s: dict(s.environments["babyai"].options),
            {"extended": True, "easy": True},
        ),
        (
            "environments.babyai.max_turns=5",
            lambda s: s.environments["babyai"].max_turns,
            5,
        ),
        (
            "environments.webshop={'max_turns': 4}",
            lambda s: s.environments["webshop"].max_turns,
            4,
        ),
        ("evaluation.environments=['babyai']", lambda s: s.evaluation.environments,
         ("babyai",)),
    ],
)  # fmt: skip
def test_override_by_path(text, read, expected):
    value = read(override(text))

    assert value == expected
    assert type(value) is type(expected)


def test_star_reaches_every_stage_and_nothing_else_changes():
    changed = override("stages.*.optimizer.learning_rate=1e-4")

    assert [s.optimizer.learning_rate for s in changed.stages] == [1e-4] * 3
    found = files.differences(files.to_json(SETTINGS), files.to_json(changed))
    assert found == [f"stages.{i}.optimizer.learning_rate" for i in range(3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed=1", "no field 'sed'. Did you mean seed"),
        (
            "stages.textcraft.rollout.group_sise=1",
            "rollout has no field 'group_sise'. Did you mean group_size",
        ),
        (
            "stages.textcraf.kind=rl",
            "stages has no member 'textcraf'. Did you mean",
        ),
        ("stages.3.kind=rl", "no member '3'"),
        ("stages.both.kind=sft", r"'sft' is not one of \['rl', 'warm_start'\]"),
        ("environments.babyay.max_turns=1", "no entry 'babyay'. Did you mean babyai"),
        ("environments.babyai.max_turns=few", "'few' is not int or None"),
        ("environments.babyai={'turns': 1}", "EnvConfig has no field 'turns'"),
        ("seed=1.5", "seed: 1.5 is not int"),
        ("seed=True", "seed: True is not int"),
        ("seed=one", "seed: 'one' is not int"),
        ("model.qkv_bias=1", "1 is not bool"),
        ("stages=3", "3 is not a tuple"),
        ("stages.both.mixture.environments.0=('babyai',)", "is not a tuple of 2"),
        ("seed.x=1", "seed is 0 and has no field 'x'"),
        ("seed", "expected field.path=value"),
        ("=3", "expected field.path=value"),
    ],
)
def test_override_refuses(text, message):
    with pytest.raises(errors.ConfigError, match=message):
        override(text)


def test_stored_configuration_comes_back_equal():
    stored = json.loads(json.dumps(files.to_json(SETTINGS)))

    assert files.from_json(stored) == SETTINGS


@hypothesis.given(
    st.builds(
        config.AlgorithmConfig,
        name=st.text(),
        clip_high=st.none() | st.floats(0.01, 9),
        divide_by_std=st.none() | st.booleans(),
        aggregation=st.sampled_from([None, "token", "sequence"]),
        penalty=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_any_algorithm_survives_json(algorithm):
    stored = json.loads(json.dumps(files.to_json(algorithm)))

    assert fields.convert(stored, config.AlgorithmConfig, "algorithm") == algorithm
    assert files.differences(stored, files.to_json(algorithm)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sede": 1}, "config: RunConfig has no field 'sede'. Did you mean seed"),
        ({"seed": "1"}, "config.seed: '1' is not int"),
        ({"model": {"layers": 3}}, "config.model: ModelConfig has no field 'layers'"),
        (
            {"stages": [{"name": "a"}]},
            "config.stages.0: StageConfig needs mixture",
        ),
    ],
)
def test_foreign_configuration_is_refused(change, message):
    with pytest.raises(errors.ConfigError, match=message):
        files.from_json(files.to_json(SETTINGS) | change)


def test_differences_name_what_was_added_removed_and_retyped():
    first = {"a": 1, "b": [1, {"c": 2}], "d": 0}
    second = {"a": 1.0, "b": [1, {"c": 3}], "e": 0}

    assert files.differences(first, second) == ["a", "b.1.c", "d", "e"]
    assert files.differences({"x": [1]}, {"x": [1, 2]}) == ["x"]


EXPERIMENT = """
import dataclasses
from agentrl import config
from agentrl.models.config import ModelConfig
from agentrl.envs import base

@dataclasses.dataclass
class Local:
    weight: float = 1.0

def get_config():
    mixture = config.MixtureConfig(environments=(("textcraft", Local().weight),))
    return config.RunConfig(
        name="file",
        stages=(config.StageConfig(name="only", mixture=mixture, num_iterations=2),),
        environments={"textcraft": base.EnvConfig()},
        model=ModelConfig(),
    )
"""


def test_load_runs_the_file_and_applies_overrides_in_order(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(EXPERIMENT)

    settings = files.load(path, ["seed=1", "seed=2", "stages.*.num_iterations=5"])

    assert (settings.name, settings.seed) == ("file", 2)
    assert settings.stages[0].num_iterations == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no experiment file at"),
        ("x = 1", "defines no get_config"),
        (
            "def get_config(): return {}",
            "returned dict, not a ",
        ),
    ],
)
def test_load_refuses_other_files(tmp_path, text, message):
    path = tmp_path / "other.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(errors.ConfigError, match=message):
        files.load(path)


def test_run_description_is_json_and_names_what_ran():
    described = json.loads(json.dumps(files.describe_run(SETTINGS)))

    assert described["devices"] == {
        "platform": "cpu", "kind": "cpu", "count": 8, "processes": 1
    }  # fmt: skip
    assert described["versions"]["jax"].count(".") == 2
    assert files.from_json(described["config"]) == SETTINGS


def test_git_description(tmp_path):
    assert files.describe_git(tmp_path) is None
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert files.describe_git(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"config": 3}']
)
def test_damaged_run_file_is_reported(tmp_path, content):
    (tmp_path / files.RUN_FILE).write_bytes(content)
    with pytest.raises(errors.DamagedFileError, match=r"run.json (is damaged|holds a)"):
        files.read_run(tmp_path)


def test_directory_without_run_is_reported(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"holds no run.json"):
        files.read_run(tmp_path)


def test_read_run_returns_what_was_described(tmp_path):
    settings = dataclasses.replace(SETTINGS, seed=11)
    described = json.dumps(files.describe_run(settings))
    (tmp_path / files.RUN_FILE).write_text(described)

    assert files.read_run(tmp_path) == settings
