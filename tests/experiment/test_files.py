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
            "stages.both.algorithm.dual_clip=None",
            lambda s: s.stages[2].algorithm.dual_clip,
            None,
        ),
        (
            "stages.both.algorithm.kl.coefficient=0.1",
            lambda s: s.stages[2].algorithm.kl,
            config.KLConfig(coefficient=0.1),
        ),
        (
            "stages.both.algorithm=ppo",
            lambda s: s.stages[2].algorithm,
            config.Ppo(),
        ),
        (
            "stages.both.algorithm={'name': 'ppo', 'discount': 0.9}",
            lambda s: s.stages[2].algorithm,
            config.Ppo(discount=0.9),
        ),
        (
            "stages.both.rehearsal={'environments': [('babyai', 1)]}",
            lambda s: s.stages[2].rehearsal,
            config.RehearsalConfig(environments=(("babyai", 1.0),)),
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
            "stages.textcraf.name=rl",
            "stages has no member 'textcraf'. Did you mean",
        ),
        ("stages.3.name=rl", "no member '3'"),
        (
            "stages.both.mixture.kind=mixed",
            r"'mixed' is not one of \['fixed', 'tempered', 'adaptive'\]",
        ),
        (
            "stages.both.algorithm=ppp",
            "algorithm 'ppp' is unknown; did you mean 'ppo'.*There are supervised, grpo",
        ),
        (
            "stages.both.rehearsal.coefficient=0.2",
            "stages.both.rehearsal is None, and RehearsalConfig needs environments. Set "
            "it as a whole first: --set=stages.both.rehearsal=",
        ),
        ("stages.both.algorithm=3", "3 is not an algorithm's name, or its fields"),
        (
            "stages.both.algorithm.discount=0.9",
            "stages.both.algorithm has no field 'discount'",
        ),
        (
            "stages.both.algorithm={'name': 'ppo', 'discont': 0.9}",
            "Ppo has no field 'discont'. Did you mean discount",
        ),
        (
            "stages.both.algorithm.kl.coeficient=1",
            "kl has no field 'coeficient'. Did you mean coefficient",
        ),
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


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PENALTIES = st.none() | st.builds(
    config.KLConfig,
    coefficient=FLOATS,
    placement=st.sampled_from(["loss", "reward"]),
    reference=st.sampled_from(["stage_start", "run_start"]),
)


@hypothesis.given(
    st.builds(
        config.Dapo,
        clip_high=FLOATS,
        dual_clip=st.none() | FLOATS,
        aggregation=st.sampled_from(["token", "sequence"]),
        advantage_scale=st.sampled_from(["std", "sample_std", "none"]),
        kl=PENALTIES,
    )
    | st.builds(config.Ppo, gae_level=st.sampled_from(["token", "turn"]), kl=PENALTIES)
    | st.builds(config.Supervised, renamed_copies=st.just((("textcraft", 2),)))
    | st.builds(config.Distillation, teachers=st.just((("textcraft", "warm"),)))
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
        (
            {"stages": [{"name": "a", "algorithm": {"name": "grpo", "discount": 1.0}}]},
            "config.stages.0.algorithm: Grpo has no field 'discount'",
        ),
        (
            {"stages": [{"name": "a", "algorithm": {"clip_low": 0.2}}]},
            "is not an algorithm's name, or its fields with `name`",
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
from agentrl.models.model_config import ModelConfig
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


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            "config.Grpo(discount=0.5)",
            "Grpo has no field 'discount'. It has: updates_per_iteration, clip_low",
        ),
        (
            "config.Dapo(clip_hihg=0.5)",
            "Dapo has no field 'clip_hihg'. Did you mean clip_high",
        ),
        ("config.Dapo(kl=config.KLConfig(coef=1))", "KLConfig has no field 'coef'"),
        ("config.RehearsalConfig()", "RehearsalConfig needs environments"),
        ("config.Dapo(0.2)", "Dapo takes keyword arguments only"),
    ],
)
def test_a_wrong_field_in_a_file_is_one_line(tmp_path, algorithm, message):
    path = tmp_path / "some.py"
    path.write_text(
        EXPERIMENT.replace('name="only", ', f'name="only", algorithm={algorithm}, ')
    )
    with pytest.raises(errors.ConfigError, match=message) as caught:
        files.load(path)
    assert "\n" not in str(caught.value)
    line = EXPERIMENT.splitlines().index(
        next(row for row in EXPERIMENT.splitlines() if 'name="only"' in row)
    )
    assert str(caught.value).startswith(f"{path}, line {line + 1}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "1"}, r"config\.seed: '1' is not int"),
        ({"save_every": 1.5}, r"config\.save_every: 1\.5 is not int"),
        ({"mesh": None}, r"config\.mesh: None is not MeshConfig"),
        ({"environments": ["textcraft"]}, r"config\.environments: .* is not a mapping"),
        (
            {"evaluation": config.EvaluationConfig(tasks=None)},
            r"config\.evaluation\.tasks: None is not int",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(change, message):
    settings = files.load("demo")
    with pytest.raises(errors.ConfigError, match=message):
        files.complete(dataclasses.replace(settings, **change))


def test_other_faults_of_a_file_name_their_line(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(EXPERIMENT.replace("Local()", "Local(3, 4)"))
    lines = path.read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if "Local(3, 4)" in line)
    fault = rf"{path}:{number}: TypeError: Local\.__init__\(\) takes .* positional"
    with pytest.raises(errors.ConfigError, match=fault) as caught:
        files.load(path)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["algorithm=gspo"], config.Gspo()),
        (["algorithm.name=gspo"], config.Gspo()),
        (
            ["algorithm.clip_high=0.3", "algorithm.name=ppo", "algorithm.discount=0.9"],
            config.Ppo(clip_high=0.3, discount=0.9),
        ),
        (
            ["algorithm.kl.coefficient=0.1", "algorithm.kl.placement=reward"],
            config.Dapo(kl=config.KLConfig(coefficient=0.1, placement="reward")),
        ),
        (["algorithm.kl.coefficient=0.1", "algorithm.kl=None"], config.Dapo()),
    ],
)
def test_algorithms_are_chosen_by_override(changes, expected):
    changed = override(*(f"stages.both.{change}" for change in changes))
    assert changed.stages[2].algorithm == expected


def test_a_switch_that_would_drop_a_setting_is_refused():
    with pytest.raises(
        errors.ConfigError,
        match=r"sets max_refills = 3, which 'ppo' does not have. Say --set=stages.both."
        r"algorithm=ppo for its published settings",
    ):
        override(
            "stages.both.algorithm.max_refills=3", "stages.both.algorithm.name=ppo"
        )


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


def test_load_reads_the_configuration_of_a_run(tmp_path):
    settings = files.load("demo", platform="cpu")
    stored = tmp_path / "run.json"
    stored.write_text(json.dumps({"config": files.to_json(settings)}))
    assert files.load(stored, ["seed=3"], platform="cpu") == dataclasses.replace(
        settings, seed=3
    )
    stored.write_text("{}")
    with pytest.raises(errors.DamagedFileError, match="no config"):
        files.load(stored)


def test_run_description_is_json_and_names_what_ran():
    described = json.loads(json.dumps(files.describe_run(SETTINGS)))

    assert described["devices"] == {
        "platform": "cpu", "kind": "cpu", "count": 8, "processes": 1
    }  # fmt: skip
    assert described["versions"]["jax"].count(".") >= 2
    assert files.from_json(described["config"]) == SETTINGS


def test_a_run_says_where_it_goes_on():
    described = files.describe_run(SETTINGS)
    assert files.describe_continuation(described, stage="", iteration=0) is None
    described["versions"]["jax"] = "0.1"
    moved = files.describe_continuation(described, stage="first", iteration=3)
    assert moved is not None
    assert (moved["stage"], moved["iteration"]) == ("first", 3)
    described["continued"] = [moved]
    assert files.describe_continuation(described, stage="second", iteration=1) is None


def test_commits_of_a_stage():
    def entry(commit, **place):
        return {"git": commit and {"commit": commit}} | place

    run = entry("a")
    assert files.find_commits(run, "first") == ["a"]
    run["continued"] = [
        entry("b", stage="first", iteration=2),
        entry("a", stage="first", iteration=3),
    ]
    assert files.find_commits(run, "first") == ["a", "b"]
    run["continued"].append(entry("c", stage="first", iteration=9))
    run["continued"].append(entry("d", stage="second", iteration=1))
    assert files.find_commits(run, "second") == ["c", "d"]
    run["continued"].append(entry(None, stage="second", iteration=2))
    assert files.find_commits(run, "third") == []


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
