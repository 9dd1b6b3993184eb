"""Advice for real environments and tokenizers holds when it is followed."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from agentrl import config, errors, preflight, types
from agentrl.advice import choose, suggest
from agentrl.envs import base, registry
from agentrl.experiment import files
from agentrl.learner import packing
from agentrl.models import model_config, transformer
from agentrl.parallel import rng
from agentrl.pretrained import hf_export
from agentrl.supervised import warmstart

sys.path.append(str(pathlib.Path(__file__).parents[1] / "chat"))
import chat_families

ROOT = pathlib.Path(__file__).parents[2]
MOST_PADDING = 0.15


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the chat template of Qwen2.5 and a small vocabulary."""
    base_folder = tmp_path_factory.mktemp("model")
    tokens = base_folder / "tokenizer"
    chat_families.make_family("qwen2.5").save_pretrained(tokens)
    shape = model_config.ModelConfig(
        vocab_size=416, hidden_size=16, num_layers=1, head_dim=8, mlp_size=16
    )
    params = transformer.Model(shape).init(jax.random.key(0))
    hf_export.write(params, shape, base_folder / "model", tokenizer_folder=tokens)
    return base_folder / "model"


def make_run(measured_with, env, advice):
    """A warm start and a stage of GRPO that follow the advice."""
    mixture = config.MixtureConfig(environments=((env, 1.0),))
    stages = tuple(
        config.StageConfig(
            name=name, mixture=mixture, num_iterations=2, algorithm=algorithm,
            evaluate_after=False,
        )
        for name, algorithm in (
            ("warm_start", config.Supervised(demonstrations=64)),
            ("grpo", config.Grpo(keep_zero_variance=True)),
        )
    )  # fmt: skip
    return choose.apply(dataclasses.replace(measured_with, stages=stages), advice)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", "published"])
@pytest.mark.parametrize("env", registry.names())
def test_no_task_is_refused_and_little_is_padding(env, kind, published, tmp_path):
    if env in ("sciworld", "textworld"):
        pytest.importorskip(env.replace("sci", "science"))
    if (env, kind) == ("sokoban", "own"):
        pytest.skip("a vocabulary of 1,024 cannot be had of its few words")
    settings = suggest.make_settings(
        {env: base.EnvConfig()}, str(published) if kind == "published" else ""
    )
    _, advice = suggest.suggest(settings, [env], choose.Wishes(), num_prompts=100)
    run = make_run(settings, env, advice)
    run.validate(num_devices=1)

    found = preflight.check(run, tmp_path)  # names tasks and demonstrations too long

    assert found.notes == []
    stage = run.stages[0]
    learned = found.demonstrations[stage.name]
    for iteration in range(3):
        chosen = warmstart.choose_batch(
            learned, rng.stream_key(jax.random.key(0), "demonstrations"), iteration,
            weights=stage.mixture.environments,
            batch_size=stage.algorithm.episodes_per_step,
        )  # fmt: skip
        _, report = packing.pack(
            chosen,
            [types.Signal(ce_weights=1.0)] * len(chosen),
            learner_config=run.learner,
            num_batches=1,
            seed=iteration,
        )
        assert report.summarize()["perf/padding_fraction"] < MOST_PADDING


@pytest.mark.slow
@pytest.mark.parametrize("env", ["textcraft", "babyai"])
def test_training_with_the_advice_wastes_little(env, tmp_path):
    """On one device, as `train` runs it; a policy that knows nothing plays briefly."""
    changes = {"textcraft": {"options": {"distractors": 0}}}.get(env, {})
    settings = suggest.make_settings(
        {env: base.EnvConfig(max_turns=5, **changes)}, "", "bare"
    )
    settings = dataclasses.replace(
        settings,
        model=model_config.ModelConfig(
            vocab_size=1024, hidden_size=32, num_layers=1, head_dim=8, mlp_size=32
        ),
        mesh=config.MeshConfig(cpu_devices=1),
    )
    _, advice = suggest.suggest(settings, [env], choose.Wishes(), thoughts=False)
    experiment = {"config": files.to_json(make_run(settings, env, advice))}
    (tmp_path / "experiment.json").write_text(json.dumps(experiment))
    subprocess.run(
        [
            *(sys.executable, "-m", "agentrl.launch.train"),
            *(f"--config={tmp_path}/experiment.json", f"--workdir={tmp_path}/run"),
        ],
        env={n: v for n, v in os.environ.items() if n != "XLA_FLAGS"},
        check=True,
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    padding = [json.loads(line)["perf/padding_fraction"] for line in lines]
    assert len(padding) == 4 and max(padding) < MOST_PADDING


def test_a_wish_for_few_episodes_on_many_devices_is_warned_of():
    settings = suggest.make_settings(
        {"textcraft": base.EnvConfig(options={"distractors": 0})}, "", "bare"
    )
    wishes = choose.Wishes(tasks_per_iteration=2, devices=8)
    _, advice = suggest.suggest(
        settings, ["textcraft"], wishes, num_prompts=20, num_episodes=8
    )
    (warning,) = (text for text in advice.warnings if "may be padding" in text)
    wanted = int(warning.split("tasks_per_iteration = ")[1].split()[0])
    assert wanted > 2
    wishes = choose.Wishes(tasks_per_iteration=wanted, devices=8)
    _, advice = suggest.suggest(
        settings, ["textcraft"], wishes, num_prompts=20, num_episodes=8
    )
    assert not any("may be padding" in text for text in advice.warnings)


def test_the_command_prints_what_can_be_pasted(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "agentrl.launch.suggest", "--env=textcraft"),
            *("--option=textcraft.distractors=0", "--prompts=20", "--episodes=8"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    code = done.stdout.partition("In an experiment file:")[2]
    names = {}
    exec(code.partition("On the command line:")[0], names)
    assert names["ROLLOUT"].max_tokens <= names["LEARNER"].row_tokens
    most = f"--set='stages.*.rollout.max_tokens={names['ROLLOUT'].max_tokens}'"
    assert most in done.stdout


def test_an_environment_with_few_words_gets_a_smaller_vocabulary(monkeypatch):
    name, module = "switches", "agentrl.experiments.recipes.switches"
    monkeypatch.setenv("AGENTRL_ENVS", f"{name}={module}")
    monkeypatch.setitem(registry._MODULES, name, module)
    settings = suggest.make_settings({name: base.EnvConfig()}, "")
    wishes = choose.Wishes()
    measured, advice = suggest.suggest(
        settings, [name], wishes, num_prompts=20, num_episodes=8
    )
    assert measured[0].num_tasks and advice.rollout["max_tokens"] > 0
    assert "the words of these environments give no more" in advice.warnings[-1]
    asked = dataclasses.replace(
        settings, stages=make_run(settings, name, advice).stages
    )
    with pytest.raises(errors.ConfigError, match="512 cannot be had"):
        suggest.suggest(asked, [name], wishes, num_prompts=20, num_episodes=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --env or --config"),
        (["--env=textcrft"], "Did you mean 'textcraft'?"),
        (["--env=babyai", "--option=distractors=0"], "write --option=ENV.key=value"),
        (["--env=babyai", "--model=absent"], "there is no model 'absent'"),
    ],
)
def test_mistakes_are_told(arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "agentrl.launch.suggest", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode != 0 and message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
