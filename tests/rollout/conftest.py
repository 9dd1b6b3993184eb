"""A small policy, and the game of recall in real worker processes."""

import pathlib

import pytest

from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, demonstrations, pool, registry
from agentrl.models import model_config, transformer

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def recall():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setitem(registry._MODULES, "recall", "recall_env")
        patch.setenv("AGENTRL_ENVS", "recall=recall_env")
        yield
    registry.get_spec.cache_clear()


@pytest.fixture(scope="module")
def envs(recall):
    with pool.EnvPool({"recall": base.EnvConfig()}, num_workers=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def framed(envs):
    ids = [f"recall_{i}" for i in range(16)]
    demos = demonstrations.collect(envs, "recall", ids, thoughts=False)
    texts = demonstrations.texts(demos) * 4
    trained = tokenizer.SentencePieceTokenizer.train(texts, 300)
    return renderer.Chat(trained, "bare")


# Turns as a CPU takes them, and as accelerators do.
@pytest.fixture(scope="module", params=["matmul", "xla"])
def model(request):
    settings = model_config.ModelConfig(
        vocab_size=320,
        hidden_size=32,
        num_layers=2,
        head_dim=8,
        mlp_size=48,
        attention=request.param,
    )
    return transformer.Model(settings)
