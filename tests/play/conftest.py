"""A small model in a Hugging Face folder, which the tests of this room play with."""

import pathlib
import sys

import jax
import pytest

from agentrl.models import model_config, transformer
from agentrl.play import policy
from agentrl.pretrained import hf_export

sys.path.append(str(pathlib.Path(__file__).parents[1] / "chat"))
import chat_families


@pytest.fixture(scope="module")
def shape():
    return model_config.ModelConfig(
        vocab_size=416,
        hidden_size=32,
        num_layers=2,
        head_dim=8,
        mlp_size=48,
        max_positions=1024,
    )


@pytest.fixture(scope="module")
def folder(shape, tmp_path_factory):
    base = tmp_path_factory.mktemp("model")
    chat_families.make_family("qwen2.5").save_pretrained(base / "tokenizer")
    params = transformer.Model(shape).init(jax.random.key(0))
    hf_export.write(params, shape, base / "model", tokenizer_folder=base / "tokenizer")
    return base / "model"


@pytest.fixture(scope="module")
def loaded(folder):
    return policy.load(folder, max_action_tokens=12, seed=3)
