"""The page on metrics: every name that the code can emit is there, and no other."""

import ast
import pathlib
import re

import bigram_run
import fake_run
import jax
import metric_page

from agentrl import config, types
from agentrl.reporting import metrics
from agentrl.run import references

PACKAGE = pathlib.Path(__file__).parents[2] / "agentrl"
# Where metrics are made. `test_recall.py` looks at those of a whole run.
EMITTERS = (
    "loop.py",
    "actor.py",
    "learner",
    "rollout",
    "hardware",
    "reporting/metrics.py",
)
NAME = re.compile(r"[a-z]+/[a-z_]+(/[a-z_]+)?")


def files():
    for name in EMITTERS:
        path = PACKAGE / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def names_in(tree):
    """Names that are keys of dictionaries, or assigned to, or of timers."""
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Dict):
            found = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            found = [node.slice]
        elif isinstance(node, ast.Call) and is_timer(node.func):
            yield from (f"time/{a.value}" for a in node.args)
        for key in found:
            name = getattr(key, "value", None)
            if isinstance(name, str) and NAME.fullmatch(name):
                yield name


def is_timer(function):
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name == "timers"


def literal_names():
    return {name for path in files() for name in names_in(ast.parse(path.read_text()))}


def episode(sample=0, params=None):
    params = params or bigram_run.Bigram().init(jax.random.key(0))
    return bigram_run.make_episode(sample, params, sample=sample, reward=float(sample))


def evaluation_names():
    """Names of `metrics.Writer.write_evaluations`."""
    result = fake_run.make_result("warm_start", 3, "textcraft", 0.5)
    return {f"evaluation/<name>/{name}" for name in result.means}


def test_names_of_evaluations_are_documented():
    assert evaluation_names() <= metric_page.documented()


def test_every_literal_name_is_documented():
    names = literal_names()
    assert {"policy/loss", "critic/loss", "rollout/refills", "time/rollout"} <= names
    assert names - metric_page.documented() == set()


def test_every_name_of_episodes_is_documented():
    names = set(metrics.summarize_trajectories([episode(0), episode(1)]))
    assert {f"rollout/ending/{e.value}" for e in types.Ending} <= names
    assert metric_page.undocumented(names) == set()


def test_nothing_is_documented_that_is_not_emitted():
    emitted = literal_names() | evaluation_names()
    emitted |= {
        name.replace("env/farm/", "env/<name>/")
        for name in metrics.summarize_trajectories([episode()])
    }
    assert metric_page.documented() - metric_page.POSITION - emitted == set()


def test_what_iterations_emit_is_documented():
    """PPO with a divergence has metrics that few runs have."""
    ppo = config.Ppo(kl=config.KLConfig(coefficient=0.1))
    run = bigram_run.make_run(bigram_run.make_stage("only", ppo))
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    played = [episode(sample, params) for sample in range(2)]

    _, values = bigram_run.train_on(
        run, stage, state, played, references.References(params)
    )

    assert {"critic/loss", "policy/reference_kl"} <= set(values)
    assert metric_page.undocumented(values) == set()
