import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl import errors
from agentrl.config import MeshConfig
from agentrl.models import kv_cache, layers, lora, model_config, transformer
from agentrl.parallel import sharding

MODEL = transformer.Model(
    model_config.ModelConfig(
        vocab_size=50, hidden_size=32, num_layers=2, head_dim=8, mlp_size=48
    )
)
LORA = model_config.LoraConfig(rank=4, alpha=6.0)
SCALE = LORA.alpha / LORA.rank
TOKENS = np.arange(24).reshape(2, 12) % 50
POSITIONS = np.tile(np.arange(12)[None], (2, 1))


def make_halves(*, shaken=True, trainable=None, **changes):
    """Trained and frozen parameters; the adapters of `shaken` ones do something."""
    settings = dataclasses.replace(LORA, **changes)
    params = MODEL.init(jax.random.key(0))
    trained, frozen = lora.split(
        params, jax.random.key(1), lora=settings, trainable=trainable,
        config=MODEL.config,
    )  # fmt: skip
    if shaken:
        trained = jax.tree.map(
            lambda x: x + 0.1 * np.random.default_rng(x.size).normal(size=x.shape),
            trained,
        )
    return params, trained, frozen


def hidden(params):
    return MODEL.hidden(params, TOKENS, POSITIONS, np.ones_like(TOKENS))


def names(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves}


def test_new_adapters_change_nothing():
    params, trained, frozen = make_halves(shaken=False)
    np.testing.assert_array_equal(hidden(lora.join(trained, frozen)), hidden(params))


@pytest.mark.parametrize("int8_base", [False, True])
def test_merged_and_unmerged_agree(int8_base):
    _, trained, frozen = make_halves(int8_base=int8_base)
    joined = lora.join(trained, frozen, SCALE)
    merged = lora.merge(joined)
    assert names(merged) == names(MODEL.init(jax.random.key(0)))
    np.testing.assert_allclose(hidden(merged), hidden(joined), atol=2e-5)


def test_merged_kernels_by_hand():
    params, trained, frozen = make_halves()
    merged = lora.merge(lora.join(trained, frozen, SCALE))
    for path, spec in (("query", "mr,rhd->mhd"), ("out", "hdr,rm->hdm")):
        adapter = trained["blocks"][1]["attention"][path]
        product = np.einsum(spec, adapter["a"], adapter["b"])
        expected = params["blocks"][1]["attention"][path] + 1.5 * product
        np.testing.assert_allclose(
            merged["blocks"][1]["attention"][path], expected, atol=1e-6
        )


def test_gradients_of_adapters_are_those_through_the_merged_kernels():
    _, trained, frozen = make_halves()

    def loss(trained, view):
        return jnp.sum(jnp.sin(hidden(view(lora.join(trained, frozen, SCALE)))))

    unmerged = jax.grad(loss)(trained, lambda params: params)
    merged = jax.grad(loss)(trained, lora.merge)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), unmerged, merged
    )


def test_int8_rounds_each_output_channel_to_its_own_grid():
    params, _, frozen = make_halves(int8_base=True)
    for name, inputs in (("query", 0), ("out", (0, 1))):
        kernel = params["blocks"][0]["attention"][name]
        stored = frozen["blocks"][0]["attention"][name]
        assert stored.values.dtype == jnp.int8
        np.testing.assert_allclose(
            stored.scales, np.abs(kernel).max(axis=inputs) / 127, rtol=1e-6
        )
        error = np.abs(lora.merge(stored) - kernel)
        assert np.all(error <= np.expand_dims(stored.scales, inputs) * 0.5001)


def round_for_rollouts(params, settings=None, **shape):
    precision = model_config.Precision(rollout_kernels="int8")
    shape = dataclasses.replace(MODEL.config, precision=precision, **shape)
    return lora.for_rollouts(params, settings, shape)


def test_rollouts_may_read_rounded_kernels():
    params = MODEL.init(jax.random.key(0))
    rounded = round_for_rollouts(params)
    kernels = {"query", "key", "value", "out", "gate", "up", "down"}
    for path, leaf in jax.tree.leaves_with_path(
        rounded, is_leaf=lambda leaf: isinstance(leaf, lora.Quantized)
    ):
        assert isinstance(leaf, lora.Quantized) == (path[-1].key in kernels)
    np.testing.assert_array_equal(rounded["embedding"], params["embedding"])

    # The cache is filled by the policy that plays, which is that of the rounded kernels.
    cache = kv_cache.empty(MODEL.config, len(TOKENS), TOKENS.shape[1])
    counts = np.full(len(TOKENS), TOKENS.shape[1])
    last, _ = MODEL.append(rounded, TOKENS, counts, cache)
    of_rounded = hidden(lora.merge(rounded))[:, -1]
    np.testing.assert_allclose(last, of_rounded, atol=2e-5)
    gap = np.abs(of_rounded - hidden(params)[:, -1])
    assert 1e-4 < gap.mean() < 0.05


def test_rounded_kernels_of_stacked_blocks_are_those_of_single_layers():
    params = MODEL.init(jax.random.key(0))
    stacked = round_for_rollouts(layers.stack(params), scan_blocks="always")
    jax.tree.map(
        np.testing.assert_array_equal,
        layers.unstack(stacked),
        round_for_rollouts(params),
    )


@pytest.mark.parametrize("int8_base", [False, True])
def test_adapters_that_are_not_merged_stay_as_they_are(int8_base):
    settings = dataclasses.replace(LORA, merge_for_rollouts=False, int8_base=int8_base)
    _, trained, frozen = make_halves(int8_base=int8_base)
    joined = lora.join(trained, frozen, SCALE)
    rounded = round_for_rollouts(joined, settings)
    for block in rounded["blocks"].values():
        for name in ("query", "out"):
            assert isinstance(block["attention"][name].base, lora.Quantized)
    np.testing.assert_array_equal(
        rounded["blocks"][0]["attention"]["query"].a,
        joined["blocks"][0]["attention"]["query"].a,
    )
    if int8_base:  # what is rounded already is not rounded again
        np.testing.assert_array_equal(hidden(rounded), hidden(joined))


@pytest.mark.parametrize(
    ("settings", "trainable", "expected"),
    [
        (None, None, r""),
        (None, ("blocks/1/", "^norm"), r"blocks/1/|^norm"),
        (LORA, ("attention_norm",), r"/[ab]$|attention_norm"),
    ],
    ids=["everything", "last_block_and_norm", "adapters_and_norms"],
)
def test_patterns_choose_what_is_trained(settings, trainable, expected):
    params = MODEL.init(jax.random.key(0))
    trained, frozen = lora.split(
        params, jax.random.key(1), lora=settings, trainable=trainable,
        config=MODEL.config,
    )  # fmt: skip
    assert trained and all(re.search(expected, name) for name in names(trained))
    left = {name for name in names(frozen) if re.search(expected, name)}
    assert not left
    merged = lora.merge(lora.join(trained, frozen))
    jax.tree.map(np.testing.assert_array_equal, merged, params)


@pytest.mark.parametrize("trainable", [None, ("attention_norm",)])
def test_a_critic_is_trained_whatever_else_is(trainable):
    half = model_config.Precision(compute="bfloat16")
    settings = dataclasses.replace(MODEL.config, critic=True, precision=half)
    model = transformer.Model(settings)
    trained, frozen = lora.split(
        model.init(jax.random.key(0)), jax.random.key(1), lora=LORA,
        trainable=trainable, config=settings,
    )  # fmt: skip
    assert trained["critic"].dtype == "float32" and "critic" not in frozen


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapters", [None, LORA], ids=["all", "lora"])
def test_what_is_only_read_has_the_type_of_its_use(tied, adapters):
    half = model_config.Precision(compute="bfloat16")
    config = dataclasses.replace(MODEL.config, tied_embeddings=tied, precision=half)
    params = transformer.Model(config).init(jax.random.key(0))
    trained, frozen = lora.split(
        params, jax.random.key(1), lora=adapters, trainable=None, config=config
    )
    read = lora.for_rollouts(lora.join(trained, frozen), adapters, config)
    output = "embedding" if tied else "head"
    for tree in (read, frozen):
        exact = {
            path for path in names(tree)
            if leaf_of(tree, path).dtype == "float32"
        }  # fmt: skip
        assert exact == ({output} & names(tree))
    assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype("float32")}


def leaf_of(tree, path):
    for key in path.split("/"):
        tree = tree[int(key) if key.isdecimal() else key]
    return tree


def test_a_pattern_without_parameters_is_refused():
    with pytest.raises(
        ValueError, match=r"'blokcs' .* matches no parameter.*blocks/\*"
    ):
        make_halves(trainable=("blokcs",))
    with pytest.raises(errors.ConfigError, match="'/qkv\\$'"):
        make_halves(targets=("qkv",))


def test_digest_sees_values_places_and_names_but_no_sharding():
    kernel = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    first = int(lora.digest({"up": kernel}))
    changed = kernel.copy()
    changed[3, 5] = np.nextafter(changed[3, 5], 2, dtype=np.float32)
    others = [changed, kernel[::-1], kernel[:, ::-1], kernel.astype(jnp.bfloat16)]
    digests = [int(lora.digest({"up": other})) for other in others]
    digests.append(int(lora.digest({"down": kernel})))
    assert len({first, *digests}) == 6

    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, model=2))
    placed = sharding.with_shardings({"mlp": {"up": kernel}}, mesh)["mlp"][
        "up"
    ].sharding
    spread = jax.device_put(kernel, placed)
    assert int(jax.jit(lora.digest)({"up": spread})) == first


@pytest.mark.parametrize("int8_base", [False, True])
def test_adapters_and_their_base_are_cut_over_the_mesh(int8_base):
    _, trained, frozen = make_halves(int8_base=int8_base)
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=2, model=4))
    for view in (trained, frozen, lora.join(trained, frozen)):
        placed = jax.tree.leaves_with_path(sharding.with_shardings(view, mesh))
        kernels = {
            jax.tree_util.keystr(path): leaf.sharding.spec
            for path, leaf in placed
            if "up" in jax.tree_util.keystr(path)
        }
        assert kernels and all(any(spec) for spec in kernels.values()), kernels
