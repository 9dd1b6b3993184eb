"""Settings that cannot work or would have no effect are refused, by name."""

import dataclasses
import re

import fake_run
import pytest

from agentrl import config, errors
from agentrl.config import algorithm_configs
from agentrl.envs import base
from agentrl.experiment import fields

SETTINGS = dataclasses.replace(
    fake_run.make_settings(),
    environments={name: base.EnvConfig() for name in fake_run.ENVIRONMENTS},
)


def override(*texts):
    """The fake run with these settings in its last stage."""
    settings = SETTINGS
    for text in texts:
        settings = fields.override(settings, f"stages.both.{text}")
    return settings


def refusal(*texts):
    with pytest.raises(errors.ConfigError) as caught:
        override(*texts).validate(num_devices=1)
    return str(caught.value)


def test_the_settings_of_these_tests_are_valid_without_changes():
    SETTINGS.validate(num_devices=1)


# A sweep over any of these would give identical curves: each names the field, the value
# and what to do.
@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (
            ["algorithm=grpo", "algorithm.discount=0.5"],
            ["algorithm.discount=0.5", "no field 'discount'", "It has: "],
        ),
        (
            ["algorithm=grpo", "algorithm.gae_decay=0.1"],
            ["algorithm.gae_decay=0.1", "no field 'gae_decay'", "It has: "],
        ),
        (
            ["algorithm=dapo", "algorithm.step_advantage_weight=9"],
            ["step_advantage_weight=9", "no field 'step_advantage_weight'", "It has: "],
        ),
        (
            ["algorithm=rloo", "algorithm.value_clip=3"],
            ["algorithm.value_clip=3", "no field 'value_clip'", "It has: "],
        ),
        (
            ["algorithm=dapo", "algorithm.gae_level=turn"],
            ["algorithm.gae_level=turn", "no field 'gae_level'", "It has: "],
        ),
        (
            ["algorithm=grpo", "algorithm.penalty=5"],
            ["algorithm.penalty = 5.0", "'keep', 'keep', 'mask'", "needs an ending"],
        ),
        (
            ["algorithm=grpo", "algorithm.kl.placement=reward"],
            ["kl.placement = 'reward' has no effect", "kl.coefficient = 0", "give a"],
        ),
        (
            ["algorithm=grpo", "algorithm.kl_estimator=k1"],
            ["algorithm.kl_estimator=k1", "no field 'kl_estimator'", "It has: "],
        ),
    ],
)
def test_a_setting_without_effect_is_refused(texts, parts):
    message = refusal(*texts)
    for part in ["stage", *parts]:
        assert part in message


def test_an_estimator_without_coefficient_measures():
    # Not without effect: the divergence is reported, as this estimator gives it.
    settings = override("algorithm=grpo", "algorithm.kl.estimator=k1")
    settings.validate(num_devices=1)
    assert settings.stages[2].algorithm.kl == config.KLConfig(estimator="k1")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["algorithm.on_max_turns=penalize"], "penalty = 0.0 with .* needs an ending"),
        (["algorithm.clip_low=0"], r"clip_low = 0.0 must lie in \(0, 1\]"),
        (["algorithm.clip_high=0"], "clip_high = 0.0; it must be positive"),
        (["algorithm.dual_clip=1"], "dual_clip = 1.0 must be above 1"),
        (["algorithm.importance_cap=0"], "importance_cap = 0.0; it must be positive"),
        (["algorithm.max_refills=-1"], "max_refills = -1; give 0 or more"),
        (["algorithm.passes=0"], "passes = 0; it must be positive"),
        (["algorithm.entropy_coefficient=-1"], "punishes entropy; give 0 or more"),
        (["algorithm.kl.coefficient=-1"], "rewards distance from the reference"),
        (["algorithm=gigpo", "algorithm.discount=2"], r"discount = 2.0 must lie in"),
        (
            ["algorithm=gigpo", "algorithm.step_advantage_weight=0"],
            "step_advantage_weight = 0.0; it must be positive",
        ),
        (
            ["algorithm=gigpo", "algorithm.shuffle_returns=group"],
            "shuffle_returns = 'group': GiGPO judges steps .* with 'grpo'",
        ),
        (["algorithm=ppo"], "'ppo' learns values, .* set model.critic = True"),
        (["algorithm=distillation"], "teachers is empty; give"),
        (
            ["algorithm={'name': 'distillation', 'teachers': [('babyai', 'warm')]}"],
            r"name one teacher for each environment .*\['textcraft', 'babyai'\].*before, "
            r"\['warm', 'textcraft'\]",
        ),
        (["algorithm=supervised", "overlap=True"], "overlap = True has no effect"),
        (["algorithm=supervised", "max_turns=[(0, 3)]"], "max_turns = .*no effect"),
        (
            ["algorithm=supervised", "mixture.kind=adaptive"],
            "mixture.kind = 'adaptive' has no effect with the algorithm 'supervised'",
        ),
        (
            ["algorithm={'name': 'supervised', 'renamed_copies': [('alfworld', 2)]}"],
            "renamed_copies names environment 'alfworld', of which nothing",
        ),
        (["rollout.group_size=1"], "group_size = 1: 'dapo' compares .* give 2 or more"),
        (
            ["mixture.temperature=2"],
            "mixture.temperature = 2.0 has no effect with .*mixture.kind = 'fixed'",
        ),
        (
            ["mixture.kind=adaptive", "mixture.temperature=2"],
            "mixture.temperature = 2.0 has no effect with .*kind = 'adaptive'",
        ),
        (
            ["mixture.tier_file=t.jsonl"],
            "tier_file = 't.jsonl' has no effect with .*'all'",
        ),
        (
            ["optimizer.final_fraction=0"],
            "final_fraction = 0.0 has no effect with .*optimizer.schedule = 'constant'",
        ),
        (
            [
                "algorithm=supervised",
                "algorithm.conversations=some.jsonl",
                "algorithm.thoughts=False",
            ],
            "thoughts = False has no effect with .*conversations = 'some.jsonl'",
        ),
        (
            ["overlap=True", "algorithm.passes=2"],
            "overlap with 2 updates an iteration .*set both to 1, or overlap to False",
        ),
        (
            ["max_staleness=3"],
            "max_staleness = 3 has no effect with .*extra_groups = 0",
        ),
        (["extra_groups=-1"], "extra_groups = -1; give 0, or at most"),
        (["extra_groups=999"], "extra_groups = 999; .*able to train on all groups"),
        (["extra_groups=2", "max_staleness=0"], "max_staleness = 0; .*at least 1 upd"),
        (
            ["extra_groups=2", "max_staleness=1", "overlap=True"],
            "max_staleness = 1; with extra_groups and overlap .*at least 2 updates",
        ),
        (
            ["extra_groups=2", "algorithm.updates_per_iteration=2"],
            "extra_groups with 2 updates .*both to 1, or extra_groups to 0",
        ),
        (
            ["extra_groups=2", "algorithm.max_refills=1"],
            "extra_groups and algorithm.max_refills both .*one of them to 0",
        ),
        (
            ["algorithm=supervised", "extra_groups=2"],
            "extra_groups = 2 has no effect with the algorithm 'supervised'",
        ),
        (
            ["rehearsal={'environments': [('alfworld', 1.0)]}"],
            "rehearsal names environment 'alfworld'",
        ),
        (
            ["rehearsal={'environments': [('babyai', 1.0)], 'coefficient': 0}"],
            "rehearsal.coefficient = 0.0; it must be positive",
        ),
        (
            ["carry_optimizer=True", "optimizer.schedule=linear"],
            "optimizer.schedule = 'linear' with carry_optimizer = True.*final_fraction = "
            "0.1, from the first update. Set schedule = 'constant'",
        ),
        (
            ["carry_optimizer=True", "optimizer.schedule=cosine"],
            "optimizer.schedule = 'cosine' with carry_optimizer = True",
        ),
        (
            ["carry_optimizer=True", "optimizer.warmup_steps=2"],
            "optimizer.warmup_steps = 2 with carry_optimizer = True.*may be over",
        ),
    ],
)
def test_a_value_that_cannot_work_is_refused(texts, message):
    found = refusal(*texts)
    assert re.search(message, found), found
    assert "stage 'both'" in found


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["tokenizer.path=x.model"], "path = 'x.model' .*kind = 'train_sentencepiece'"),
        (
            ["tokenizer={'kind': 'bytes', 'vocab_size': 9}"],
            "tokenizer.vocab_size = 9 has no effect with tokenizer.kind = 'bytes'",
        ),
        (
            ["evaluation.rollout.temperature=0", "evaluation.rollout.top_k=5"],
            "rollout.top_k = 5 has no effect with .*temperature = 0: the likeliest token",
        ),
        (
            ["model.init=induction", "weights=somewhere"],
            "model.init = 'induction' has no effect .* read from somewhere",
        ),
        (["weights=here", "start_from=there"], "weights = 'here' has no effect .*'there'"),
        (
            ["model.rope_scaling={'kind': 'linear', 'factor': 2, 'original_context': 9}"],
            "original_context = 9 has no effect with .*rope_scaling.kind = 'linear'",
        ),
        (["trainable=()"], "without lora trains nothing"),
    ],
)  # fmt: skip
def test_a_value_of_the_run_that_nothing_reads_is_refused(texts, message):
    settings = SETTINGS
    for text in texts:
        settings = fields.override(settings, text)
    with pytest.raises(errors.ConfigError, match=message):
        settings.validate(num_devices=1)


@pytest.mark.parametrize(
    "texts",
    [
        ["mixture.kind=tempered", "mixture.temperature=2"],
        ["mixture.tier=hard", "mixture.tier_file=t.jsonl"],
        ["optimizer.schedule=linear", "optimizer.final_fraction=0"],
        ["algorithm=supervised", "mixture.kind=tempered", "mixture.temperature=2"],
        ["carry_optimizer=True"],
    ],
    ids=str,
)
def test_a_value_that_is_read_is_accepted(texts):
    override(*texts).validate(num_devices=1)


def test_a_warm_start_draws_by_tempered_weights():
    mixture = config.MixtureConfig(environments=(("a", 4.0), ("b", 1.0)))
    assert mixture.tempered_weights == mixture.environments
    tempered = dataclasses.replace(mixture, kind="tempered", temperature=2.0)
    assert tempered.tempered_weights == (("a", 2.0), ("b", 1.0))


def test_the_optimizer_may_be_carried_at_a_constant_rate_but_not_from_nowhere():
    override("carry_optimizer=True").validate(num_devices=1)
    first = fields.override(SETTINGS, "stages.warm.carry_optimizer=True")
    with pytest.raises(errors.ConfigError, match="no effect in the first stage"):
        first.validate(num_devices=1)


def test_teachers_of_all_environments_are_valid():
    pairs = "[('textcraft', 'textcraft'), ('babyai', 'warm')]"
    override(f"algorithm={{'name': 'distillation', 'teachers': {pairs}}}").validate(
        num_devices=1
    )


@pytest.mark.parametrize("name", algorithm_configs.names())
def test_a_class_refuses_fields_of_others_when_it_is_made(name):
    made = algorithm_configs.find(name)
    assert name == made.NAME
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        made(nothing=1)


def test_an_algorithm_needs_a_name_of_its_own():
    class Nameless(config.Grpo):
        NAME = ""

    class Taken(config.Grpo):
        pass

    for wrong in (Nameless, Taken):
        with pytest.raises(ValueError, match="is missing or taken"):
            algorithm_configs.register(wrong)
    assert algorithm_configs.find("grpo") is config.Grpo


def test_updates_of_an_iteration_count_passes():
    stage = dataclasses.replace(
        SETTINGS.stages[2], algorithm=config.Grpo(updates_per_iteration=3, passes=2)
    )
    assert stage.updates_per_iteration == 6
