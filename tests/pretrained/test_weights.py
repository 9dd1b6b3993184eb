"""Weights on sharded placements, and what is said of damaged ones."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from agentrl import config, errors
from agentrl.export import convert
from agentrl.models import layers, model_config, transformer
from agentrl.parallel import sharding
from agentrl.pretrained import hf_config, hf_export, names, safetensors_io, weights
from agentrl.sources import locate

CONFIG = model_config.ModelConfig(
    vocab_size=32, hidden_size=16, num_layers=2, head_dim=8, mlp_size=24
)
FIRST = "model-00001-of-00007.safetensors"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def make_params(shape=CONFIG, seed=0):
    params = transformer.Model(shape).init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [
        x + jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


def placed(shape=CONFIG, **mesh):
    shapes = jax.eval_shape(transformer.Model(shape).init, jax.random.key(0))
    return sharding.with_shardings(
        shapes, sharding.make_mesh(config.MeshConfig(**mesh))
    )


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder in seven shards."""
    out, tokenizer = tmp_path / "model", tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "generation_config.json").write_text('{"eos_token_id": 7}')
    hf_export.write(
        make_params(), CONFIG, out, tokenizer_folder=tokenizer, shard_bytes=5000
    )
    assert sorted(p.name for p in out.glob("*.safetensors"))[0] == FIRST
    return out


def find(folder):
    return locate.find.__wrapped__(str(folder))


def rewrite(path, change):
    """Applies `change` to the tensors of one safetensors file."""
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


@pytest.mark.parametrize(
    "mesh", [{"data": 1, "fsdp": 8}, {"data": 1, "fsdp": 2, "model": 4}, {"model": 2}]
)
def test_shards_are_read_onto_any_mesh(folder, mesh):
    like = placed(**mesh)
    loaded = find(folder).load(like)
    jax.tree.map(np.testing.assert_array_equal, loaded, make_params())
    assert jax.tree.map(lambda x: x.sharding, loaded) == jax.tree.map(
        lambda x: x.sharding, like
    )


def test_no_more_is_read_than_a_shard_needs(folder):
    source = safetensors_io.SafetensorsSource(folder)
    read = []

    class Counting:
        path, entries = source.path, source.entries

        def read(self, name, region):
            part = source.read(name, region)
            read.append((name, part.size))
            return part

    weights.load(Counting(), CONFIG, placed(data=1, fsdp=8))
    assert max(size for name, size in read if name == QUERY) == 32 * 16 // 8


def test_parameters_take_the_dtype_that_is_asked_for(folder):
    like = jax.tree.map(lambda x: x.update(dtype=jnp.bfloat16), placed())
    loaded = find(folder).load(like)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_params())
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_ids_of_special_tokens_and_settings_come_along(folder):
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "eos_token_id": 7
    }
    assert hf_config.read_fields(folder)["eos_token_id"] == 7


def test_all_that_does_not_fit_is_listed_at_once(folder):
    for path in folder.glob("*.safetensors"):
        rewrite(path, lambda tensors: tensors.pop("model.norm.weight", None))

    def spoil(tensors):
        tensors["model.extra.weight"] = np.zeros(3, np.float32)
        tensors["model.embed_tokens.weight"] = np.zeros((31, 16), np.float32)

    index = json.loads((folder / safetensors_io.INDEX).read_text())
    embedding = index["weight_map"]["model.embed_tokens.weight"]
    del index["weight_map"]["model.norm.weight"]
    (folder / safetensors_io.INDEX).write_text(json.dumps(index))
    rewrite(folder / embedding, spoil)
    query = index["weight_map"][QUERY]
    rewrite(folder / query, lambda t: t.update({QUERY: t[QUERY].astype(np.int8)}))
    with pytest.raises(errors.CheckpointError, match="4 problems") as caught:
        find(folder).load(placed())
    for problem in (
        "model.norm.weight is missing",
        f"{embedding}: model.extra.weight [3] is not expected",
        f"{embedding}: model.embed_tokens.weight is [31, 16], expected [32, 16]",
        f"{query}: {QUERY} is I8, expected F32 or F16 or BF16",
    ):
        assert problem in str(caught.value)


@pytest.mark.parametrize("dtype", ["I64", "I8", "F64", "F8_E4M3", "BOOL"])
def test_a_tensor_that_is_no_plain_float_is_named_with_its_file(folder, dtype):
    index = json.loads((folder / safetensors_io.INDEX).read_text())
    path = folder / index["weight_map"][QUERY]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first, last = header[QUERY]["data_offsets"]
    # The same bytes, read as numbers of another size.
    size = {"I64": 8, "F64": 8}.get(dtype, 1)
    rows = (last - first) // size // 16
    header[QUERY] |= {"dtype": dtype, "shape": [rows, 16]}
    changed = json.dumps(header).encode()
    path.write_bytes(
        len(changed).to_bytes(8, "little") + changed + content[8 + length :]
    )
    with pytest.raises(errors.CheckpointError) as caught:
        find(folder).load(placed())
    assert f"{path.name}: {QUERY} is {dtype}, expected F32" in str(caught.value)
    with pytest.raises(errors.CheckpointError, match=f"{QUERY} is {dtype}"):
        convert.to_orbax(str(folder), folder / "out")


def test_a_missing_shard_is_named(folder):
    (folder / FIRST).unlink()
    with pytest.raises(errors.CheckpointError, match=f"lacks 1 of the 7.*{FIRST}"):
        find(folder).load(placed())


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_file_cut_short_is_named(folder, kept):
    content = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(content[:kept])
    with pytest.raises(errors.CheckpointError, match=f"{FIRST}.*cut short"):
        find(folder).load(placed())


def test_an_index_that_disagrees_with_its_shards_is_named(folder):
    rewrite(folder / FIRST, lambda tensors: tensors.popitem())
    with pytest.raises(errors.CheckpointError, match=f"lists model.*{FIRST}"):
        find(folder).load(placed())


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_damaged_index_is_named(folder, text):
    (folder / safetensors_io.INDEX).write_text(text)
    with pytest.raises(errors.CheckpointError, match=safetensors_io.INDEX):
        find(folder).load(placed())


def test_a_folder_without_weights_says_what_it_holds(folder):
    for path in folder.glob("model*"):
        path.unlink()
    with pytest.raises(errors.CheckpointError, match=r"neither.*config\.json"):
        find(folder).load(placed())


@pytest.mark.parametrize("equal", [True, False])
def test_a_copy_of_the_tied_matrix_is_accepted_only_if_it_is_one(tmp_path, equal):
    hf_export.write(make_params(), CONFIG, tmp_path / "m", tokenizer_folder=tmp_path)

    def tie(tensors):
        head = tensors["model.embed_tokens.weight"].copy()
        head[-1, -1] += not equal
        tensors["lm_head.weight"] = head

    rewrite(tmp_path / "m" / safetensors_io.SINGLE, tie)
    if equal:
        loaded = find(tmp_path / "m").load(placed())
        jax.tree.map(np.testing.assert_array_equal, loaded, make_params())
    else:
        with pytest.raises(errors.CheckpointError, match=r"lm_head\.weight"):
            find(tmp_path / "m").load(placed())


def test_weights_of_another_model_are_refused_by_field(folder):
    half = model_config.Precision(compute="bfloat16")
    other = dataclasses.replace(CONFIG, num_layers=3, precision=half)
    with pytest.raises(errors.ConfigError, match="num_layers is 2 there and 3 here"):
        find(folder).check(other)
    find(folder).check(dataclasses.replace(CONFIG, precision=half))


def test_a_critic_starts_at_zero_and_stays_at_home(folder, tmp_path):
    with_critic = dataclasses.replace(CONFIG, critic=True)
    find(folder).check(with_critic)
    loaded = find(folder).load(placed(with_critic))
    np.testing.assert_array_equal(loaded["critic"], np.zeros(16))
    hf_export.write(loaded, with_critic, tmp_path / "out", tokenizer_folder=folder)
    found = find(tmp_path / "out").load(placed())
    jax.tree.map(np.testing.assert_array_equal, found, make_params())


def test_a_name_that_means_nothing(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"'nowhere'.*smollm2-135m-instruct"):
        find("nowhere")
    with pytest.raises(errors.ConfigError, match=r"not an empty directory"):
        (tmp_path / "file").write_text("")
        hf_export.claim(tmp_path)


def test_a_converted_folder_that_is_damaged_or_of_another_model(folder, tmp_path):
    convert.to_orbax(str(folder), tmp_path / "out")
    loaded = find(tmp_path / "out").load(placed(data=1, fsdp=8))
    jax.tree.map(np.testing.assert_array_equal, loaded, make_params())
    deeper = dataclasses.replace(CONFIG, num_layers=3)
    with pytest.raises(errors.CheckpointError, match="blocks/2/mlp/up is absent"):
        find(tmp_path / "out").load(placed(deeper))
    for path in (tmp_path / "out" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(errors.CheckpointError, match=r"repeat launch\.convert"):
        find(tmp_path / "out").load(placed())


@pytest.mark.parametrize("shape", ["tied", "untied", "qk_norm"])
def test_theirs_and_ours_are_inverse(shape):
    changes = {
        "tied": {},
        "untied": {"tied_embeddings": False, "num_kv_heads": 4},
        "qk_norm": {"qk_norm": True, "qkv_bias": False},
    }[shape]
    config = dataclasses.replace(CONFIG, **changes)
    params = make_params(config)
    found = weights.Export.of(params, config)
    assert found.leaves.keys() == found.tensors.keys()
    tensors = {t.name: found.fetch(path) for path, t in names.table(config).items()}
    for path, tensor in names.table(config).items():
        assert tensors[tensor.name].shape == tensor.shape
        whole = [slice(None)] * found.leaves[path].ndim
        back = tensor.read(lambda name, region: tensors[name][tuple(region)], whole)
        np.testing.assert_array_equal(back, found.leaves[path])


def test_stacked_blocks_are_read_and_written_as_single_layers(folder, tmp_path):
    scanned = dataclasses.replace(CONFIG, scan_blocks="always")
    like = placed(scanned, data=1, fsdp=2, model=4)
    convert.to_orbax(str(folder), tmp_path / "orbax")
    expected = layers.stack(make_params())
    for where in (folder, tmp_path / "orbax"):
        loaded = find(where).load(like)
        jax.tree.map(np.testing.assert_array_equal, loaded, expected)
        assert jax.tree.map(lambda x: x.sharding, loaded) == jax.tree.map(
            lambda x: x.sharding, like
        )
    hf_export.write(loaded, scanned, tmp_path / "out", tokenizer_folder=folder)
    found = find(tmp_path / "out").load(placed())
    jax.tree.map(np.testing.assert_array_equal, found, make_params())
