"""The protocol's presets: what the sources say, and that each loads and dry-runs."""

import dataclasses
import pathlib
import re

import pytest

from agentrl.envs import base, registry
from agentrl.experiment import files, packaged
from agentrl.experiments.agentgym_rl import protocol
from agentrl.planning import preview

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "experiments" / "agentgym_rl" / "README.md"
NAMES = [name for name in packaged.names() if name.startswith("agentgym_rl/")]
TINY = [  # a stand-in of the model's family
    f"model.{field}={value}"
    for field, value in {
        **{"hidden_size": 64, "num_layers": 2, "num_heads": 8, "num_kv_heads": 4},
        **{"head_dim": 8, "mlp_size": 128, "vocab_size": 512},
    }.items()
]


def load(name, *overrides):
    settings = files.load(name, [*TINY, *overrides])
    for env in settings.environments:
        try:
            registry.get_spec(env).make(base.EnvConfig())
        except base.MissingDataError as error:
            pytest.skip(str(error))
    return settings


@pytest.mark.parametrize("name", NAMES)
def test_presets_load_and_validate(name):
    settings = load(name)
    settings.validate(num_devices=8)
    assert packaged.summary(packaged.find(name)).endswith(".")
    stage = settings.stages[0]
    assert stage.rollout.cut_actions == "play"
    assert settings.tokenizer.frame == "agentgym"
    assert {env.profile for env in settings.environments.values()} == {"agentgym"}
    assert stage.algorithm.advantage_scale == "sample_std"
    assert stage.algorithm.kl.coefficient == stage.algorithm.entropy_coefficient == 1e-3


def describe(name):
    settings = dataclasses.replace(load(name), num_env_workers=1)
    described = preview.describe(settings, num_devices=8)
    for env in {n for s in settings.stages for n, _ in s.mixture.environments}:
        assert f"{env}, " in described or env in described
    assert "digest" in described or "Tasks:" in described


@pytest.mark.parametrize("name", ["paper_textcraft", "scaling_babyai"])
def test_two_presets_run_dry(name):
    describe(f"agentgym_rl/{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_runs_dry(name):
    describe(name)


@pytest.mark.parametrize(
    "name, turns, group, tasks, minibatches, passes, tokens, action_tokens",
    [
        ("paper_searchqa", 4, 8, 32, 4, 2, 1024 + 8192, 512),
        ("paper_textcraft", 20, 8, 32, 4, 2, 512 + 10240, 512),
        ("paper_babyai", 20, 8, 16, 2, 1, 1024 + 4096, 200),
        ("script_searchqa", 5, 4, 32, 4, 2, 1024 + 8192, 512),
        ("script_textcraft", 30, 8, 32, 4, 2, 512 + 10240, 512),
        ("study_webshop", 10, 8, 32, 4, 2, 1024 + 8192, 512),
        ("study_searchqa", 5, 8, 32, 4, 2, 1024 + 8192, 512),
        ("study_textcraft", 30, 8, 32, 4, 2, 1024 + 8192, 512),
        ("study_alfworld", 10, 8, 32, 4, 2, 1024 + 8192, 512),
        ("study_babyai", 15, 8, 32, 4, 2, 1024 + 8192, 512),
    ],
)
def test_presets_have_the_values_of_their_source(
    name, turns, group, tasks, minibatches, passes, tokens, action_tokens
):
    settings = files.load(f"agentgym_rl/{name}", TINY)
    (stage,) = settings.stages
    env = name.partition("_")[2]
    assert settings.environments[env].max_turns == turns
    rollout, algorithm = stage.rollout, stage.algorithm
    assert (rollout.group_size, rollout.tasks_per_iteration) == (group, tasks)
    assert (algorithm.updates_per_iteration, algorithm.passes) == (minibatches, passes)
    assert (rollout.max_tokens, rollout.max_action_tokens) == (tokens, action_tokens)
    assert stage.optimizer.learning_rate == 1e-6


def test_the_study_tests_all_five_with_one_cap():
    for name in NAMES:
        settings = files.load(name, TINY)
        is_study = "/study" in name
        assert settings.evaluation.max_turns == (20 if is_study else None)
        assert settings.evaluation.samples == 8
        if is_study:
            assert set(settings.environments) == set(protocol.STUDY_TURNS)
    sequence = files.load("agentgym_rl/study_sequence", TINY)
    assert [stage.name for stage in sequence.stages] == list(protocol.STUDY_TURNS)


def test_turns_grow_under_scaling_inter():
    settings = files.load("agentgym_rl/scaling_textcraft", TINY)
    assert settings.stages[0].max_turns == ((0, 10), (100, 20), (200, 30))


def test_the_fields_for_other_machines_are_accepted():
    blocks = re.findall(r"^```\n(--set.*?)^```", README.read_text(), re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks:
        sets = re.findall(r"--set='?([^'\s]+)'?", block)
        settings = files.load("agentgym_rl/study_sequence", [*sets, *TINY])
        one = settings.learner.rows_per_microbatch == 1
        settings.validate(num_devices=1 if one else 8)
