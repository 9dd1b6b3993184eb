"""`import agentrl`; docs/howto_library.md runs the calls themselves."""

import dataclasses
import pathlib
import subprocess
import sys

import fake_run
import pytest

import agentrl
from agentrl import errors
from agentrl.envs import base

ROOT = pathlib.Path(__file__).parents[1]


def test_the_package_imports_nothing_until_it_is_used():
    code = (
        "import sys, agentrl; before = set(sys.modules); dir(agentrl);"
        "loaded = {n for n in before if n.split('.')[0] in ('agentrl', 'jax', 'numpy')};"
        "assert loaded == {'agentrl'}, loaded;"
        "agentrl.make_env; assert 'agentrl.api' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_names():
    assert set(agentrl.__all__) <= set(dir(agentrl))
    assert all(callable(getattr(agentrl, name)) for name in agentrl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        agentrl.trian  # noqa: B018


def test_make_env_takes_fields_of_its_configuration():
    env = agentrl.make_env("textcraft", max_turns=3)
    assert env.max_turns == 3
    config = base.EnvConfig(profile="agentgym")
    env = agentrl.make_env("textcraft", config, max_turns=2)
    assert (env.config.profile, env.max_turns) == ("agentgym", 2)
    with pytest.raises(base.EnvConfigError, match="no field 'max_turn'"):
        agentrl.make_env("textcraft", max_turn=3)
    with pytest.raises(base.EnvConfigError, match="Did you mean"):
        agentrl.make_env("textcrft")


@pytest.mark.parametrize(
    ("given", "fields", "message"),
    [
        (
            (),
            {"max_turns": "5"},
            r"max_turns = '5'; it must be None, or a whole number",
        ),
        (
            (),
            {"max_turns": 2.5},
            r"max_turns = 2\.5; it must be None, or a whole number",
        ),
        (
            (),
            {"max_turns": True},
            "max_turns = True; it must be None, or a whole number",
        ),
        ((), {"options": None}, "options = None; give a mapping"),
        ((), {"options": {3: 4}}, "has no option 3"),
        (
            ({"max_turns": 3},),
            {},
            "is no EnvConfig; give one, or fields by their names",
        ),
    ],
)
def test_make_env_refuses_values_of_other_types(given, fields, message):
    with pytest.raises(base.EnvConfigError, match=message):
        agentrl.make_env("textcraft", *given, **fields)
    with pytest.raises(base.EnvConfigError, match="name = 3; give the name"):
        agentrl.make_env(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda path: agentrl.train("demo", path, overrides="seed=1"),
            r"overrides = 'seed=1'; give a list, such as \[\"seed=1\"\]",
        ),
        (
            lambda path: agentrl.train("demo", path, overrides=[1]),
            "a member of overrides = 1; give text",
        ),
        (lambda path: agentrl.train("demo", path, overrides=None), "overrides = None"),
        (lambda path: agentrl.train("demo", None), "workdir = None; give a path"),
        (lambda path: agentrl.train({}, path), "experiment = {}; give a RunConfig"),
        (lambda path: agentrl.train("demo", path, model=None), "model = None"),
        (
            lambda path: agentrl.evaluate(path, path, compare_with="initial"),
            "compare_with = 'initial'; give a list",
        ),
        (lambda path: agentrl.load_results(None), "workdir = None; give a path"),
    ],
)
def test_arguments_of_other_types_are_refused(tmp_path, call, message):
    with pytest.raises(errors.ConfigError, match=message):
        call(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_results_are_a_list_and_records(tmp_path):
    settings = fake_run.write_run(tmp_path)
    found = agentrl.load_results(tmp_path)
    assert [(r.stage, r.env) for r in found] == [
        (stage.name, env) for stage in settings.stages for env in settings.environments
    ]
    rows = found.rows()
    assert len(rows) == sum(len(r.item_ids) * r.samples for r in found)
    first = [row for row in rows if row["stage"] == found[0].stage]
    first = [row["success"] for row in first if row["env"] == found[0].env]
    assert sum(first) / len(first) == found[0].mean
    lines = repr(found).splitlines()
    assert len(lines) == 1 + len(found) and max(map(len, lines)) < 90
    assert f"{found[0].stage}, {found[0].env}: success" in lines[1]


def test_lost_samples_have_no_record(tmp_path):
    result = fake_run.make_result("warm", 8, "babyai", 0.5, tasks=2, samples=2)
    holes = {
        name: ((None, getattr(result, name)[0][1]), getattr(result, name)[1])
        for name in ("success", "score", "turns", "tokens")
    }
    dataclasses.replace(result, **holes).save(tmp_path)
    rows = agentrl.load_results(tmp_path).rows()
    assert [(row["item_id"], row["sample"]) for row in rows] == [
        ("babyai_0", 1),
        ("babyai_1", 0),
        ("babyai_1", 1),
    ]


def test_results_of_nowhere_are_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match="there is no directory"):
        agentrl.load_results(tmp_path / "nowhere")
    fake_run.write_run(tmp_path / "run")
    inner = tmp_path / "run" / "checkpoints" / "11"
    inner.mkdir(parents=True, exist_ok=True)
    for folder in (tmp_path, inner):
        with pytest.raises(
            errors.ConfigError, match=r"holds neither run\.json nor eval"
        ):
            agentrl.load_results(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampels": 2}, "no field 'sampels'. Did you mean samples"),
        ({"samples": "two"}, "samples: 'two' is not int"),
    ],
)
def test_evaluate_refuses_changes_before_anything_is_read(tmp_path, change, message):
    with pytest.raises(errors.ConfigError, match=message):
        agentrl.evaluate(tmp_path / "nowhere", tmp_path / "out", **change)
    assert not list(tmp_path.iterdir())
