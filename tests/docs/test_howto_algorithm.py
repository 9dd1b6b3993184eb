"""The guide to algorithms: its example runs as it stands, its table is up to date."""

import dataclasses
import importlib
import pathlib
import re
import sys

import bigram_run
import fake_run
import numpy as np
import pytest

from agentrl import config, errors, session
from agentrl.config import algorithm_configs
from agentrl.envs import base
from agentrl.experiment import fields, files
from agentrl.learner import algorithms

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "howto_algorithm.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The two files of the page, saved as it says; returns the module of the test."""
    text = PAGE.read_text()
    module, test = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "late_grpo.py").write_text(module)
    (tmp_path / "check_late_grpo.py").write_text(test)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AGENTRL_ALGORITHMS", "late_grpo")
    monkeypatch.setattr(algorithm_configs, "_CLASSES", dict(algorithm_configs._CLASSES))
    monkeypatch.setattr(algorithms, "_RESOLVERS", dict(algorithms._RESOLVERS))
    assert "late_grpo" in algorithm_configs.names()
    yield importlib.import_module("check_late_grpo")
    del sys.modules["late_grpo"], sys.modules["check_late_grpo"]


def test_the_test_of_the_page_passes(example):
    example.test_the_last_turn_counts_most()


def test_the_example_is_chosen_like_any_other(example):
    settings = fake_run.make_settings()
    for change in ("algorithm=late_grpo", "algorithm.turn_decay=0.7"):
        settings = fields.override(settings, f"stages.both.{change}")
    chosen = settings.stages[2].algorithm
    assert chosen == example.late_grpo.LateGrpo(turn_decay=0.7)
    assert files.from_json(files.to_json(settings)) == settings
    with pytest.raises(errors.ConfigError, match=r"turn_decay = 0\.0"):
        fields.override(settings, "stages.both.algorithm.turn_decay=0").stages[
            2
        ].validate("stage")
    with pytest.raises(errors.ConfigError, match="Did you mean turn_decay"):
        fields.override(settings, "stages.both.algorithm.turn_deca=1")


def test_the_example_trains(example):
    algorithm = example.late_grpo.LateGrpo(turn_decay=0.25)
    run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    episodes = [
        bigram_run.make_episode(i, params, sample=i, reward=float(i), num_turns=3)
        for i in range(2)
    ]
    stage, seen = bigram_run.spy_on_updates(stage)

    state, values = bigram_run.train_on(run, stage, state, episodes)

    ((batch, _),) = seen
    found = bigram_run.read_segments(batch)
    for episode in episodes:
        fields_of = found[bigram_run.key_of(episode)]
        acted = bigram_run.tokens_of(episode)[1]
        lengths = [len(turn.action_tokens) for turn in episode.turns]
        expected = np.repeat([0.0625, 0.25, 1.0], lengths)
        np.testing.assert_array_equal(fields_of["rl_weights"][acted], expected)
    assert values["optimizer/grad_norm"] > 0 and int(state.learner.step) == 1


def test_a_module_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv("AGENTRL_ALGORITHMS", "no_such_module")
    with pytest.raises(
        errors.ConfigError, match=r"the module 'no_such_module', which cannot be import"
    ):
        algorithm_configs.find("late_grpo")


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes a module `mine` of algorithms, which a space before its name does not hide."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AGENTRL_ALGORITHMS", "agentrl.config, mine")
    monkeypatch.setattr(algorithm_configs, "_CLASSES", dict(algorithm_configs._CLASSES))

    def write(text):
        (tmp_path / "mine.py").write_text(text)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("mine", None)


OWN = """
import dataclasses
from agentrl import config
from agentrl.config import algorithm_configs


@algorithm_configs.register
@dataclasses.dataclass(frozen=True, kw_only=True)
class {name}(config.{base}):
    {body}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"'mine', which fails .*SyntaxError: .*mine.py, line 1"),
        ("1 / 0\n", r"fails when it is imported \(ZeroDivisionError"),
        (
            OWN.format(name="Mine", base="Grpo", body="pass"),
            r"Mine.NAME = 'grpo' is missing or taken; give the class a NAME",
        ),
        (
            OWN.format(name="Grpo", base="Grpo", body="pass"),
            r"Grpo.NAME = 'grpo' is missing or taken; give the class a NAME",
        ),
    ],
)
def test_a_module_that_fails_is_told_in_one_line(write_module, text, message):
    write_module(text)
    with pytest.raises(errors.ConfigError, match=message) as told:
        algorithm_configs.names()
    assert "\n" not in str(told.value)
    assert algorithm_configs._CLASSES["grpo"] is config.Grpo


def test_a_class_that_nothing_resolves_is_refused_before_a_run(
    write_module, monkeypatch
):
    write_module(OWN.format(name="Mine", base="PolicyGradient", body="NAME = 'mine'"))
    stage = bigram_run.make_stage("only", algorithm_configs.find("mine")())
    settings = dataclasses.replace(fake_run.make_settings(), stages=(stage,))
    for checked in (
        "rules.check_numbers",
        "rules.check_shape",
        "rules.check_evaluation",
    ):
        monkeypatch.setattr(f"agentrl.experiment.{checked}", lambda *_, **__: None)
    monkeypatch.setattr(config.RunConfig, "validate", lambda *_, **__: None)
    for checked in ("check_selections", "check_oracles"):
        monkeypatch.setattr(session.preflight, checked, lambda _: None)
    message = (
        r"'only': no function .* 'mine'; decorate one with @algorithms.resolves\(Mi"
    )
    with pytest.raises(errors.ConfigError, match=message):
        session.check(settings)

    monkeypatch.setitem(algorithms._RESOLVERS, type(stage.algorithm), lambda *_: None)
    with pytest.raises(errors.ConfigError, match="returned NoneType, not an Algorithm"):
        session.check(settings)


def test_a_class_that_nobody_registered_is_refused_before_it_trains():
    class Mine(config.Grpo):
        pass

    stage = bigram_run.make_stage("mine", Mine(), environments=("textcraft",))
    settings = dataclasses.replace(
        fake_run.make_settings(),
        stages=(stage,),
        environments={"textcraft": base.EnvConfig()},
    )
    with pytest.raises(
        errors.ConfigError, match="of the class Mine, but 'grpo' names another"
    ):
        settings.validate(num_devices=1)


def test_the_table_is_that_of_the_code():
    (stored,) = re.findall(
        r"<!-- fields -->\n(.*?)<!-- end of fields -->", PAGE.read_text(), re.DOTALL
    )
    assert stored == algorithm_configs.describe_fields()
    # Every field of every algorithm is in it, in the row of the class that has it.
    for name in algorithm_configs.names():
        made = algorithm_configs.find(name)
        rows = {base.__name__: base for base in made.__mro__}
        text = "".join(
            line for line in stored.splitlines() if line.split(" | ")[1] in rows
        )
        for field in dataclasses.fields(made):
            assert f"`{field.name} = {field.default!r}`" in text, (name, field.name)
