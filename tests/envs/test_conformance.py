"""Every registered environment keeps the contract, and the checks can tell.

The example of docs/howto_env.md is one of the environments checked here.
"""

import importlib
import itertools
import os
import pathlib
import re
import subprocess
import sys

import pytest

from agentrl.envs import base, checks, registry

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = [
    base.EnvConfig(profile=profile, list_actions=list_actions)
    for profile, list_actions in itertools.product(base.PROFILES, base.LIST_ACTIONS)
]
IN_NEW_PROCESSES = (checks.check_processes, checks.check_memory)
COUNTS = {  # tasks in train and test
    "webshop": (3930, 200),
    "alfworld": (2420, 200),
    "textcraft": (374, 100),
    "babyai": (810, 90),
    "searchqa": (None, 400),
    "sciworld": (643, 200),
    "sokoban": (1500, 300),
    "textworld": (900, 150),
    "guess_number": (421, 79),
}


@pytest.fixture(scope="module", autouse=True)
def example(tmp_path_factory):
    """Saves the example as the guide says, and makes it known to this module."""
    page = (ROOT / "docs" / "howto_env.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    folder = tmp_path_factory.mktemp("example")
    (folder / "guess_number.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setitem(registry._MODULES, "guess_number", "guess_number")
        patch.setenv("AGENTRL_ENVS", "guess_number=guess_number")
        yield importlib.import_module("guess_number")
    registry.get_spec.cache_clear()
    del sys.modules["guess_number"]


ENVIRONMENTS = (*registry.names(), "guess_number")


@pytest.fixture(params=ENVIRONMENTS)
def name(request):
    """Each environment in turn; those that need more than is installed are skipped."""
    try:
        registry.make(request.param).close()
    except base.MissingDataError as error:
        pytest.skip(str(error))
    return request.param


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{config.profile}-{config.list_actions}"
)
def test_environments_keep_the_contract(name, config):
    for check in checks.CHECKS:
        if check not in IN_NEW_PROCESSES:
            check(name, config)


@pytest.mark.parametrize("check", IN_NEW_PROCESSES, ids=lambda check: check.__name__)
def test_environments_keep_the_contract_in_other_processes(name, check):
    check(name, base.EnvConfig())


def test_panels_have_the_published_sizes(name):
    spec = registry.get_spec(name)
    for split, count in zip(("train", "test"), COUNTS.get(name, ()), strict=False):
        panel = spec.panel(split, base.EnvConfig())
        assert count in (None, len(panel.item_ids)), f"{split}: {len(panel.item_ids)}"


def test_published_subsets_are_those_of_the_panels(name):
    spec, config = registry.get_spec(name), base.EnvConfig()
    published = spec.subsets(config)
    if published is None:
        return
    panels = [spec.panel(split, config).item_ids for split in ("train", "test")]
    if name == "sokoban":  # which draws each of its warehouses anew
        panels = [ids[:200] for ids in panels]
    found = {spec.subset(i, config) for i in itertools.chain(*panels)}
    assert found <= set(published)
    if name != "sciworld":  # where no solution of some kinds is known
        assert found == set(published)


def test_the_suite_runs_from_the_command_line():
    run = [sys.executable, "-m", "agentrl.envs.checks"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}

    done = subprocess.run(
        [*run, "guess_number"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "guess_number strict native: ok" in done.stdout

    done = subprocess.run(
        [*run, "guess_numbr"], capture_output=True, text=True, env=env
    )
    assert done.returncode != 0 and "Did you mean 'guess_number'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("profile", base.PROFILES)
def test_no_test_task_is_a_training_task(name, profile):
    config = base.EnvConfig(profile)
    spec = registry.get_spec(name)
    sizes = {split: len(spec.panel(split, config).item_ids) for split in spec.splits}
    counts = checks.compare_splits(name, config)
    assert counts == sizes
    print(f"{name}, {profile}: no equal tasks among {counts}")


# Each check can tell: the example, with one line changed, breaks one promise.

LIMITS = 'turn_limits: ClassVar = {"strict": 8, "agentgym": 12}'
SECRET = "self.secret = _secret(index)"
FIRST = '"What is your first guess?"'
MUTANTS = [
    (
        checks.check_config,
        LIMITS,
        f"{LIMITS}; __init__ = lambda self, _: super(type(self), self).__init__()",
    ),
    (checks.check_panels, "_split(split))", '_split("test"))'),
    (checks.check_panels, 'else "hard"', 'else "medium"'),
    (checks.check_panels, '("all",)', '("none",)'),
    (checks.check_fingerprints, "(_secret(index) % 5 == 0)", "(index % 5 == 0)"),
    (
        checks.check_purity,
        SECRET,
        'self.secret = getattr(self, "secret", index % 9)',
    ),
    (checks.check_purity, FIRST, "str(__import__('random').random())"),
    (checks.check_interleaving, SECRET, "type(self).secret = _secret(index)"),
    (checks.check_processes, FIRST, "str(hash('a'))"),
    (checks.check_hostile_texts, "reply = parsed.error", "self.secret = 1; reply = ''"),
    (checks.check_hostile_texts, "reply = parsed.error", "reply = chr(27)"),
    (
        checks.check_unknown_ids,
        LIMITS,
        LIMITS + "; reset = lambda self, i: base.Environment.reset(self, i.strip())",
    ),
    (
        checks.check_call_order,
        "match = re",
        "self._turn = self._turn and 0; match = re",
    ),
    (checks.check_turn_limit, "(reply, info", "(reply, terminated=True, info"),
    (checks.check_listed_actions, "range(1, _HIGHEST", "range(0, _HIGHEST"),
    (
        checks.check_action_lists,
        LIMITS,
        LIMITS + "; _actions_to_list = lambda *_, first: None",
    ),
    (checks.check_oracles, "{self._secret}", "{self._secret // 2}"),
    (checks.check_oracles, "{(self._low + self._high) // 2}", "{self._low}"),
    (checks.check_memory, SECRET, SECRET + "; self.waste = list(range(3000))"),
]


@pytest.fixture
def mutate(example, monkeypatch, tmp_path):
    """Puts the example with one part replaced in the place of the example."""

    def replace(part, other):
        source = pathlib.Path(example.__file__).read_text()
        assert source.count(part) == 1
        (tmp_path / "mutant.py").write_text(source.replace(part, other))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setitem(registry._MODULES, "guess_number", "mutant")
        monkeypatch.setenv("AGENTRL_ENVS", "guess_number=mutant")
        registry.get_spec.cache_clear()

    yield replace
    registry.get_spec.cache_clear()
    sys.modules.pop("mutant", None)


@pytest.mark.parametrize("check, part, other", MUTANTS)
def test_each_check_can_tell(mutate, monkeypatch, check, part, other):
    monkeypatch.setattr(checks, "MAX_INSTANCE_BYTES", 10_000)
    mutate(part, other)
    with pytest.raises(checks.ConformanceError):
        check("guess_number", base.EnvConfig(list_actions="always"))


def test_an_observational_oracle_cannot_peek(mutate):
    mutate("self._low, self._high = 1,", "self._low, self._high = env.secret,")
    with pytest.raises(AttributeError, match="secret"):
        checks.check_oracles("guess_number", base.EnvConfig())


def test_the_checks_leave_no_promise_untried():
    tried = {check for check, *_ in MUTANTS}
    assert tried == set(checks.CHECKS)


STEP = "hint = "
ADVICE = "return parsing.render_react(thought"
MISTAKES = [
    ('f"guess_number_{index}"', '"guess_number_3"', "'train': repeated tasks"),
    ('(split == "test")', '(split == "test") and split == "train"', "'test': empty"),
    ('f"guess_number_{index}"', 'f"guess_{index}"', "ids look like 'guess_number_0'"),
    ('("all",)', '("none",)', "of subset 'all', which spec.subsets does not name"),
    (FIRST, "None", "the first observation is None (NoneType); it must be a str."),
    (STEP, "return None; hint = ", "_apply() returned None"),
    ('"Correct.", 1.0', '"Correct.", "1"', "reward is '1' (str); it must be a finite"),
    (ADVICE, "return None and (thought", "the oracle's answer is None"),
    (ADVICE, "return {}['x'](thought", "check_oracles: KeyError: 'x' ("),
    ("if index >=", "if 1 / 0 >=", "ZeroDivisionError: division by zero ("),
    ("name=", "make=None, name=", "SyntaxError"),
    ('base.TaskPanel("guess_number",', "None and (0,", "AttributeError: 'NoneType'"),
    ("class TellingOracle:", "SPEC = 1 / 0\\nclass T:", "ZeroDivisionError"),
]


@pytest.mark.parametrize("part, other, message", MISTAKES)
def test_an_authors_mistake_is_told_in_one_line(
    mutate, monkeypatch, capsys, part, other, message
):
    for check in IN_NEW_PROCESSES:  # takes long, and comes after others that can tell
        kept = tuple(c for c in checks.CHECKS if c != check)
        monkeypatch.setattr(checks, "CHECKS", kept)
    mutate(part, other.replace("\\n", "\n"))
    assert checks.main(["guess_number"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "guess_number" in line and message in line
