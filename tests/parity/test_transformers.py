"""Our models against those of `transformers`, number by number."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import optax  # noqa: E402
import transformers  # noqa: E402

from agentrl import config, types  # noqa: E402
from agentrl.export import convert  # noqa: E402
from agentrl.learner import update  # noqa: E402
from agentrl.models import kv_cache  # noqa: E402
from agentrl.pretrained import hf_export, orbax_io  # noqa: E402
from tests.parity import models  # noqa: E402

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=models.FAMILIES)
def pair(request, tmp_path_factory):
    theirs = models.make(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    ours, params = models.load(folder, fsdp=2, model=2)
    return theirs, ours, params, folder


def random_tokens(shape, seed=0):
    return np.random.default_rng(seed).integers(0, models.VOCABULARY, shape)


def test_logits_beyond_the_original_context(pair):
    theirs, ours, params, _ = pair
    tokens = random_tokens((2, 200))
    expected = models.their_logits(theirs, tokens)
    assert np.abs(expected).max() > 1
    found = models.full_logits(ours, params, tokens)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(pair, side):
    theirs, ours, params, _ = pair
    tokens = random_tokens((3, 24), seed=1)
    lengths = np.array([24, 9, 16])
    mask = (np.arange(24)[None] < lengths[:, None]).astype(np.int32)
    mask = mask[:, ::-1].copy() if side == "left" else mask
    expected = models.their_logits(theirs, tokens, mask)
    found = models.full_logits(ours, params, tokens, mask)
    valid = mask.astype(bool)
    np.testing.assert_allclose(found[valid], expected[valid], atol=TOLERANCE)


def test_greedy_generation_and_decoding_with_the_cache(pair):
    theirs, ours, params, _ = pair
    prompt, num_new = random_tokens((1, 12), seed=2), 200
    generated = theirs.generate(
        torch.tensor(prompt),
        attention_mask=torch.ones(prompt.shape, dtype=torch.long),
        max_new_tokens=num_new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    ).numpy()
    assert generated.shape[1] == prompt.shape[1] + num_new

    @jax.jit
    def append(params, tokens, cache):
        hidden, cache = ours.append(params, tokens, jnp.array([tokens.shape[1]]), cache)
        return hidden @ ours.unembedding(params), cache

    cache = kv_cache.empty(ours.config, 1, generated.shape[1])
    step, cache = append(params, jnp.array(prompt), cache)
    decoded, steps = [], []
    for _ in range(num_new):
        steps.append(step[0])
        decoded.append(int(jnp.argmax(step[0])))
        step, cache = append(params, jnp.array([[decoded[-1]]]), cache)
    np.testing.assert_array_equal(decoded, generated[0, prompt.shape[1] :])
    full = models.full_logits(ours, params, generated)[0, prompt.shape[1] - 1 : -1]
    np.testing.assert_allclose(np.stack(steps), full, atol=TOLERANCE)


def test_trained_one_step_and_exported(pair, tmp_path, make_batch):
    theirs, ours, params, folder = pair
    batch = jax.tree.map(jnp.asarray, make_batch(3))
    optimizer = optax.sgd(0.1)
    train_step = update.make_train_step(
        update.make_score(ours.hidden, ours.unembedding, chunk=64, temperature=1.0),
        optimizer,
        algorithm=config.AlgorithmConfig(),
        supervised=True,
    )
    state = types.TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        mixture=None,
        key=jax.random.key(0),
    )
    trained, _ = jax.jit(train_step)(state, batch)
    hf_export.write(
        trained.params, ours.config, tmp_path / "out", tokenizer_folder=folder
    )
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(back) is type(theirs)
    tokens = random_tokens((2, 40), seed=4)
    before = models.full_logits(ours, params, tokens)
    after = models.full_logits(ours, trained.params, tokens)
    assert np.abs(after - before).max() > 100 * TOLERANCE
    found = models.their_logits(back, tokens)
    np.testing.assert_allclose(after, found, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_without_training_is_bit_equal(pair, tmp_path, dtype):
    theirs, _, _, _ = pair
    given, converted, back = (tmp_path / n for n in ("given", "converted", "back"))
    theirs = copy.deepcopy(theirs).to(dtype)
    theirs.save_pretrained(given, max_shard_size="20KB")
    expected = theirs.state_dict()
    convert.to_orbax(str(given), converted)
    assert orbax_io.holds_params(converted)
    convert.to_hugging_face(converted, back, shard_bytes=15_000)
    assert len(list(back.glob("*.safetensors"))) > 1
    loaded = transformers.AutoModelForCausalLM.from_pretrained(back, dtype="auto")
    assert loaded.dtype == dtype
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
