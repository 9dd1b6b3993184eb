"""Runs from a folder of `transformers`, trained by command, exported, and loaded again."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

import transformers  # noqa: E402

from agentrl import types  # noqa: E402
from agentrl.export import convert  # noqa: E402
from agentrl.models import lora  # noqa: E402
from tests.chat import chat_families  # noqa: E402
from tests.parity import models  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
TOLERANCE = 1e-4
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 40))


def launch(module, *arguments):
    variables = {
        "AGENTRL_ENVS": "recall=tests.recall_env",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Qwen2 with a tokenizer and the family's chat template."""
    folder = tmp_path_factory.mktemp("given")
    tokenizer = chat_families.make_family("qwen2.5")
    tokenizer.save_pretrained(folder)
    models.make("qwen2", vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder


def train(folder, workdir, *overrides):
    launch(
        "agentrl.launch.train",
        f"--config={ROOT / 'tests' / 'e2e' / 'recall_experiment.py'}",
        f"--model={folder}",
        f"--workdir={workdir}",
        "--set=stages.*.num_iterations=2",
        "--set=stages.*.evaluate_after=False",
        "--set=stages.*.rollout.max_tokens=96",
        "--set=stages.*.rollout.cache_buckets=(96,)",
        "--set=evaluation.rollout.max_tokens=96",
        "--set=evaluation.rollout.cache_buckets=(96,)",
        "--set=learner.row_tokens=96",
        "--set=tokenizer.frame=plain",
        *(f"--set={override}" for override in overrides),
    )
    return workdir


@pytest.fixture(scope="module", params=[False, True], ids=["float", "int8"])
def adapted(request, folder, tmp_path_factory):
    """A run that trained adapters, with a critic, which no export has."""
    settings = {"rank": 4, "alpha": 6.0, "int8_base": request.param}
    return train(
        folder,
        tmp_path_factory.mktemp("lora") / "run",
        f"lora={settings}",
        "model.critic=True",
        "stages.recall.algorithm.name=ppo",
    )


def our_logits(workdir):
    """Logits of the adapters beside their base, as the learner computes them."""
    _, stored, trained = convert._restore(workdir)
    joined = stored.join(types.Params(trained, stored.frozen))
    unmerged = models.full_logits(stored.model, joined, TOKENS)
    merged = models.full_logits(stored.model, lora.merge(joined), TOKENS)
    np.testing.assert_allclose(merged, unmerged, atol=TOLERANCE)
    return unmerged


def base_logits(folder):
    base = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return models.their_logits(base, TOKENS)


def test_a_merged_run_has_the_logits_of_its_adapters(adapted, folder, tmp_path):
    launch(
        "agentrl.launch.convert",
        f"--checkpoint={adapted}",
        f"--to_hf={tmp_path / 'out'}",
    )
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    expected = our_logits(adapted)
    found = models.their_logits(back, TOKENS)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.abs(found - base_logits(folder)).max() > 100 * TOLERANCE
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == chat_families.make_family("qwen2.5").chat_template


# Inside transformers, when peft asks.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_adapters(adapted, folder, tmp_path):
    int8 = json.loads((adapted / "run.json").read_text())["config"]["lora"]["int8_base"]
    out = tmp_path / "out"
    launch(
        "agentrl.launch.convert",
        "--adapter",
        f"--checkpoint={adapted}",
        f"--to_hf={out}",
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(base, out).eval()
    found, expected = models.their_logits(loaded, TOKENS), our_logits(adapted)
    assert np.abs(found - base_logits(folder)).max() > 100 * TOLERANCE
    # The kernels beside the adapters are rounded here, and not there.
    np.testing.assert_allclose(found, expected, atol=0.3 if int8 else TOLERANCE)
    assert loaded.peft_config["default"].base_model_name_or_path == str(folder)


def test_runs_whose_training_no_adapter_holds_are_refused(folder, tmp_path):
    workdir = train(folder, tmp_path / "run", "lora={'rank': 2}", "trainable=['norm']")
    with pytest.raises(ValueError, match=r"besides its adapters, such as .*norm"):
        convert.to_peft(workdir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_run_is_exported_as_it_was_trained(folder, tmp_path):
    workdir = train(folder, tmp_path / "run")
    with pytest.raises(ValueError, match="lora = None"):
        convert.to_peft(workdir, tmp_path / "adapters")
    convert.to_hugging_face(workdir, tmp_path / "out")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    _, stored, trained = convert._restore(workdir)
    expected = models.full_logits(stored.model, trained, TOKENS)
    np.testing.assert_allclose(
        models.their_logits(back, TOKENS), expected, atol=TOLERANCE
    )
    assert np.abs(expected - base_logits(folder)).max() > 100 * TOLERANCE
    counts = "--prompts=8", "--texts=50"
    said = launch("tests.parity.check_run", f"--workdir={workdir}", *counts)
    assert "equal: answers 8 of 8, ids 50 of 50, texts 50 of 50" in said
