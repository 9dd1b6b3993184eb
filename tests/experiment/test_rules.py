"""Every field of a run has a rule, and every number has bounds."""

import dataclasses
import types
import typing
from collections.abc import Mapping

import fake_run
import pytest

from agentrl import config, errors
from agentrl.config import algorithm_configs
from agentrl.envs import base
from agentrl.experiment import changes, files, rules

SETTINGS = fake_run.make_settings()


def fields_of(annotation, path):
    """Dotted path and type of all that an annotation may hold."""
    if annotation in (int, float, str, bool, types.NoneType):
        yield path, annotation
    elif annotation is config.AlgorithmConfig:
        for name in algorithm_configs.names():
            yield from fields_of(algorithm_configs.find(name), path)
    elif dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        for field in dataclasses.fields(annotation):
            yield from fields_of(hints[field.name], f"{path}.{field.name}".lstrip("."))
    elif typing.get_origin(annotation) is typing.Literal:
        yield path, str
    elif typing.get_origin(annotation) in (types.UnionType, typing.Union):
        for choice in typing.get_args(annotation):
            yield from fields_of(choice, path)
    elif issubclass(typing.get_origin(annotation), Mapping):
        yield from fields_of(typing.get_args(annotation)[1], f"{path}.*")
    else:
        arguments = typing.get_args(annotation)
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        for index, member in enumerate(arguments[:1] if repeated else arguments):
            yield from fields_of(member, f"{path}.{'*' if repeated else index}")


ALL = list(fields_of(config.RunConfig, ""))


def test_the_walk_finds_fields():
    paths = {path for path, _ in ALL}
    for path in (
        "seed",
        "stages.*.rollout.cache_buckets.*",
        "stages.*.algorithm.clip_high",
        "stages.*.algorithm.kl.coefficient",
        "lora.rank",
    ):
        assert path in paths
    assert len(paths) > 100


@pytest.mark.parametrize("path", sorted({path for path, _ in ALL}))
def test_every_field_is_classified(path):
    rules.change_of(path.replace("*", "0"))


@pytest.mark.parametrize(
    "path", sorted({path for path, kind in ALL if kind in (int, float)})
)
def test_every_number_has_bounds(path):
    checked_there = (".algorithm.", ".options.", ".env_options.", ".template_variables")
    if any(part in path for part in checked_there):
        return  # algorithms and environments check their own; templates take any
    assert any(
        rules.matches(pattern, path.replace("*", "0")) for pattern in rules.BOUNDS
    )


@pytest.mark.parametrize(
    "table", [rules.CHANGES, rules.BOUNDS], ids=["CHANGES", "BOUNDS"]
)
def test_every_rule_is_of_a_field(table):
    paths = {"stages", *(path for path, _ in ALL)}
    above = {".".join(p.split(".")[:n]) for p in paths for n in range(1, 9)}
    assert set(table) <= paths | above


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("save_every", 0, "save_every = 0; it must be at least 1"),
        ("num_env_workers", -1, "num_env_workers = -1"),
        ("env_timeout_s", float("nan"), "env_timeout_s = nan; it must be above 0"),
        ("max_env_error_fraction", 1.5, "at least 0 and at most 1"),
        ("learner", config.LearnerConfig(max_microbatches=0), "learner.max_microb"),
        ("mesh", config.MeshConfig(fsdp=0), "mesh.fsdp = 0"),
        ("tokenizer", config.TokenizerConfig(vocab_size=-5), "tokenizer.vocab_size"),
    ],
)
def test_numbers_out_of_bounds_are_refused(field, value, message):
    settings = dataclasses.replace(SETTINGS, **{field: value})
    with pytest.raises(errors.ConfigError, match=message):
        rules.check_numbers(files.to_json(settings))


def test_the_defaults_are_within_bounds():
    rules.check_numbers(files.to_json(SETTINGS))


def change_stage(index, **fields):
    stages = list(SETTINGS.stages)
    stages[index] = dataclasses.replace(stages[index], **fields)
    return dataclasses.replace(SETTINGS, stages=tuple(stages))


def check(wanted, stored=SETTINGS, allowed=()):
    found = changes.compare(stored, wanted)
    changes.check(found, stored, allowed=allowed, workdir="W")
    return [change.field for change in found]


def test_what_leaves_results_as_they_are_may_change():
    wanted = dataclasses.replace(
        SETTINGS, name="x", save_every=3, mesh=config.MeshConfig(fsdp=2)
    )
    assert check(wanted) == ["name", "mesh.fsdp", "save_every"]


def test_only_the_last_stage_grows_and_stages_come_last():
    assert check(change_stage(2, num_iterations=9)) == ["stages.2.num_iterations"]
    longer = dataclasses.replace(
        SETTINGS,
        stages=(*SETTINGS.stages, dataclasses.replace(SETTINGS.stages[0], name="new")),
    )
    assert check(longer) == ["stages.3"]
    for refused in (
        change_stage(2, num_iterations=7),
        change_stage(1, num_iterations=9),
    ):
        with pytest.raises(errors.ConfigError, match="would learn something else"):
            check(refused)
    with pytest.raises(errors.ConfigError, match=r"depend on these fields: stages.3"):
        check(SETTINGS, longer)


@pytest.mark.parametrize(
    "allowed", ["stages.both.optimizer", "stages.*.optimizer.learning_rate", "stages.2"]
)
def test_other_changes_have_to_be_allowed(allowed):
    optimizer = config.OptimizerConfig(learning_rate=0.5)
    wanted = change_stage(2, optimizer=optimizer)
    with pytest.raises(
        errors.ConfigError,
        match=r"was 1e-06 and is 0.5.*--allow_changes=stages.both.optimizer.learning_ra",
    ):
        check(wanted, allowed=["seed", "stages.both.optimizer.learning_rates"])
    assert check(wanted, allowed=[allowed]) == ["stages.2.optimizer.learning_rate"]


def test_environments_come_last():
    more = base.EnvConfig(max_turns=3)
    longer = dataclasses.replace(
        SETTINGS, environments={**SETTINGS.environments, "webshop": more}
    )
    assert check(longer) == ["environments.webshop"]
    first = {"webshop": more, **SETTINGS.environments}
    for refused, stored in (
        (SETTINGS, longer),
        (dataclasses.replace(SETTINGS, environments=first), SETTINGS),
    ):
        with pytest.raises(errors.ConfigError, match=r"environments was \['textcraft"):
            check(refused, stored, allowed=["environments"])


def test_names_of_stages_never_change():
    with pytest.raises(errors.ConfigError, match="files depend on"):
        check(change_stage(0, name="x"), allowed=["stages"])


def test_a_field_that_an_older_version_lacks_has_its_default():
    stored = files.to_json(SETTINGS)
    del stored["keep_checkpoints"], stored["stages"][0]["overlap"]
    assert changes.compare(files.from_json(stored), SETTINGS) == []


def test_a_stretched_schedule_is_named():
    optimizer = config.OptimizerConfig(schedule="cosine")
    stored = change_stage(2, optimizer=optimizer)
    wanted = change_stage(2, optimizer=optimizer, num_iterations=9)
    (line,) = changes.describe_schedules(changes.compare(stored, wanted), wanted)
    assert "stage 'both' has optimizer.schedule = 'cosine'" in line
    assert "decayed over 8 iterations and decays over 9" in line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"num_heads": 3},
            "num_heads = 3 must be a multiple of model.num_kv_heads = 2",
        ),
        ({"head_dim": 7}, "head_dim = 7 must be even"),
    ],
)
def test_parts_of_a_model_have_to_fit(model, message):
    settings = dataclasses.replace(
        SETTINGS, model=dataclasses.replace(SETTINGS.model, **model)
    )
    with pytest.raises(errors.ConfigError, match=message):
        rules.check_shape(files.to_json(settings.model))


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"num_slots": 12}, "num_slots / num_cohorts = 12 .* of the 8 data-parallel"),
        ({"row_buckets": (4,)}, r"row_buckets = \(4,\) must be multiples"),
        (
            {"max_tokens": 40_000, "cache_buckets": (40_000,)},
            "max_tokens = 40000 exceeds model.max_positions = 32768",
        ),
    ],
)
def test_evaluations_have_to_fit_too(rollout, message):
    evaluation = config.EvaluationConfig(rollout=config.RolloutConfig(**rollout))
    settings = dataclasses.replace(SETTINGS, evaluation=evaluation)
    with pytest.raises(errors.ConfigError, match=message):
        rules.check_evaluation(settings, num_devices=8)


def test_a_single_field_that_nothing_reads_is_refused_where_it_is_named():
    warm = dataclasses.replace(SETTINGS.stages[0], algorithm=config.Supervised())
    stages = (warm, *SETTINGS.stages[1:])
    settings = dataclasses.replace(SETTINGS, stages=stages)
    for text, message in {
        "evaluation.rollout.group_size=2": "evaluation.tasks and evaluation.samples",
        "stages.warm.rollout.temperature=2": "stage 'warm' learns from demonstrations",
        "stages.0.rollout.group_size=2": "stage '0' learns from demonstrations",
    }.items():
        with pytest.raises(
            errors.ConfigError, match=f"{text} has no effect: .*{message}"
        ):
            rules.check_override(settings, text)
    for text in (
        "stages.*.rollout.temperature=2",
        "stages.warm.rollout.max_tokens=9",
        "stages.both.rollout.temperature=2",
        "evaluation.rollout.temperature=2",
        "tokenizer.vocab_size=300",
    ):
        rules.check_override(settings, text)
    started = dataclasses.replace(settings, start_from="runs/a/checkpoints/3#9")
    with pytest.raises(errors.ConfigError, match="the tokenizer is that of runs/a"):
        rules.check_override(started, "tokenizer.vocab_size=300")
