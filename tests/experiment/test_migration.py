"""Configurations that version 0.1 stored, read in the terms of this version."""

import copy
import dataclasses
import json
import pathlib

import pytest

from agentrl import config
from agentrl.experiment import files, migration

STORED = json.loads(
    (pathlib.Path(__file__).parent / "data" / "run_of_version_0_1.json").read_text()
)["config"]


def read(*, stage=1, algorithm=None, **changes):
    """A stage of the stored run, with changes in the terms of version 0.1."""
    stored = copy.deepcopy(STORED)
    stored["stages"][stage]["algorithm"] |= algorithm or {}
    stored["stages"][stage] |= changes
    settings = files.from_json(stored)
    settings.validate(num_devices=1)
    return settings.stages[stage]


def assert_kept(old, new, ignored=()):
    """Whatever was stored is there unchanged; later versions may have added fields."""
    if not isinstance(old, dict):
        assert new == old
        return
    for key in old.keys() - set(ignored):
        assert_kept(old[key], new[key])


def limited(algorithm):
    """An algorithm with the limit that was every run's default, and is stored in them."""
    limit = algorithm.max_logprob_mismatch or 0.01
    return dataclasses.replace(algorithm, max_logprob_mismatch=limit)


def test_a_published_run_is_read_as_it_was():
    settings = files.from_json(STORED)

    settings.validate(num_devices=1)
    warm, grpo = settings.stages
    assert warm.algorithm == config.Supervised(
        demonstrations=64, episodes_per_step=16, thoughts=False
    )
    assert grpo.algorithm == limited(config.Grpo(clip_high=0.28))
    # Whatever is no algorithm's is where it was.
    again = files.to_json(settings)
    for old, new in zip(STORED["stages"], again["stages"], strict=True):
        assert_kept(old, new, ignored=("kind", "algorithm", "warm_start"))
        assert new["rehearsal"] is None
    assert_kept(STORED, again, ignored=("stages",))


def test_what_was_read_is_stored_and_read_again():
    settings = files.from_json(STORED)
    stored = json.loads(json.dumps(files.to_json(settings)))
    assert migration.upgrade(stored) == stored
    assert files.from_json(stored) == settings


def test_the_stored_configuration_is_left_as_it_is():
    before = copy.deepcopy(STORED)
    migration.upgrade(STORED)
    assert before == STORED


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ({"clip_high": None}, config.Grpo()),
        (
            {
                "name": "grpo", "clip_high": None, "divide_by_std": False,
                "kl_coefficient": 0.01, "kl_in": "reward", "kl_estimator": "k1",
                "on_max_turns": "penalize", "penalty": 0.5, "max_first_gap": 0.03,
            },
            config.Grpo(
                advantage_scale="none",
                kl=config.KLConfig(
                    coefficient=0.01, placement="reward", estimator="k1"
                ),
                on_max_turns="penalize",
                penalty=0.5,
                max_logprob_mismatch=0.03,
            ),
        ),
        (
            {"name": "dapo", "kl_coefficient": 0.1, "max_refills": 2},
            config.Dapo(kl=config.KLConfig(coefficient=0.1), max_refills=2),
        ),
        (
            {"name": "gspo", "clip_high": 0.01, "updates_per_iteration": 4},
            config.Gspo(clip_high=0.01, updates_per_iteration=4),
        ),
        (
            {"name": "cispo", "clip_low": 0.5, "clip_high": None},
            config.Cispo(clip_low=0.5),
        ),
        (
            {"name": "gigpo", "clip_high": None, "step_weight": 0.5, "discount": 0.9},
            config.Gigpo(step_advantage_weight=0.5, discount=0.9),
        ),
        (
            {"name": "reinforce_pp", "divide_by_std": True, "dual_clip": 3.0,
             "clip_high": 0.2, "importance_cap": 2.0},
            config.ReinforcePP(dual_clip=3.0, importance_cap=2.0),
        ),
    ],
    ids=lambda x: x.get("name") if isinstance(x, dict) else "",
)  # fmt: skip
def test_algorithms_by_hand(algorithm, expected):
    assert read(algorithm=algorithm).algorithm == limited(expected)


def test_a_critic_keeps_its_fields():
    stored = copy.deepcopy(STORED)
    stored["model"]["critic"] = True
    stored["stages"][1]["algorithm"] |= {
        "name": "ppo", "clip_high": None, "discount": 0.99, "gae_level": "turn",
        "gae_decay": 0.9, "value_coefficient": 1.0, "value_clip": 0.5,
    }  # fmt: skip
    expected = config.Ppo(
        discount=0.99,
        gae_level="turn",
        gae_decay=0.9,
        value_coefficient=1.0,
        value_clip=0.5,
    )
    assert files.from_json(stored).stages[1].algorithm == limited(expected)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"discount": 0.5, "gae_decay": 0.1, "gae_level": "turn", "value_clip": 3.0},
        {"step_weight": 9.0, "value_coefficient": 7.0},
        {"penalty": 5.0},
        {"on_max_turns": "penalize"},
        {"kl_in": "reward", "kl_estimator": "k1"},
    ],
    ids=str,
)
def test_what_had_no_effect_is_left_out(algorithm):
    assert read(algorithm=algorithm).algorithm == limited(config.Grpo(clip_high=0.28))


def test_a_warm_start_of_the_demo_is_a_supervised_stage():
    source = {
        "demonstrations": 300, "episodes_per_step": 40, "thoughts": False,
        "renamed_copies": [["textcraft", 8]], "conversations": "",
    }  # fmt: skip
    stage = read(
        stage=0,
        warm_start=source,
        algorithm={"updates_per_iteration": 2, "clip_high": 0.3},
        overlap=True,
        carry_optimizer=True,
        max_turns=[[0, 4]],
    )
    assert stage.supervised
    assert stage.algorithm == config.Supervised(
        demonstrations=300,
        episodes_per_step=40,
        thoughts=False,
        renamed_copies=(("textcraft", 8),),
        updates_per_iteration=2,
    )
    # Nothing is played, and nothing came before.
    assert not stage.overlap and not stage.carry_optimizer and stage.max_turns == ()


def test_stored_conversations_were_taken_as_written():
    source = {
        "demonstrations": 300, "episodes_per_step": 40, "thoughts": False,
        "renamed_copies": [["textcraft", 8]], "conversations": "some.jsonl",
    }  # fmt: skip
    assert read(stage=0, warm_start=source).algorithm == config.Supervised(
        conversations="some.jsonl", episodes_per_step=40
    )


def test_values_that_nothing_read_are_left_out_of_a_stored_run():
    stored = copy.deepcopy(STORED)
    stored["tokenizer"] |= {"kind": "bytes", "path": "x"}
    stored["evaluation"]["rollout"] |= {"temperature": 0.0, "top_k": 5}
    stored["model"]["init"], stored["weights"] = "induction", "somewhere"
    for stage in stored["stages"]:
        stage["mixture"] |= {"kind": "adaptive", "temperature": 3.0, "tier_file": "x"}
        stage["optimizer"] |= {"schedule": "constant", "final_fraction": 0.0}

    settings = files.from_json(stored)

    settings.validate(num_devices=1)
    assert settings.tokenizer == config.TokenizerConfig(
        kind="bytes", frame=settings.tokenizer.frame
    )
    assert [stage.mixture.kind for stage in settings.stages] == ["fixed", "adaptive"]
