"""GGUF files, written here by the package `gguf`: what is read, and what is refused."""

import dataclasses

import gguf
import jax
import numpy as np
import pytest

from agentrl import config, errors
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding
from agentrl.pretrained import gguf_io, names, weights
from agentrl.sources import locate

CONFIG = model_config.ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    head_dim=8,
    mlp_size=64,
    qkv_bias=False,
    norm_epsilon=1e-5,
    max_positions=128,
)
THEIRS = {name: part for part, name in gguf_io._LAYER.items()}
OUTSIDE = {name: part for part, name in gguf_io._OUTSIDE.items()}


def theirs(name):
    """The name that a tensor of the Hugging Face layout has in GGUF files."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{THEIRS[part]}.{kind}"


def interleave(matrix):
    """Rows of each head as GGUF keeps them: those of its two halves alternate."""
    heads = matrix.reshape(-1, 2, CONFIG.head_dim // 2, matrix.shape[1])
    return heads.swapaxes(1, 2).reshape(matrix.shape)


def write(path, params, *, architecture="llama", kind="F32", left_out=()):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(CONFIG.num_layers)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.mlp_size)
    writer.add_head_count(CONFIG.num_heads)
    writer.add_head_count_kv(CONFIG.num_kv_heads)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_context_length(CONFIG.max_positions)
    writer.add_layer_norm_rms_eps(CONFIG.norm_epsilon)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_rope_dimension_count(CONFIG.head_dim)
    export = weights.Export.of(params, CONFIG)
    quantization = gguf.GGMLQuantizationType[kind]
    for path_of_ours, tensor in export.tensors.items():
        if tensor.name in left_out:
            continue
        values = export.fetch(path_of_ours)
        if "q_proj" in tensor.name or "k_proj" in tensor.name:
            values = interleave(values)
        raw = values if values.ndim == 1 else gguf.quantize(values, quantization)
        raw_dtype = None if values.ndim == 1 else quantization
        writer.add_tensor(theirs(tensor.name), raw, raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def find(path):
    return locate.find.__wrapped__(str(path))


@pytest.fixture(scope="module")
def params():
    return jax.jit(transformer.Model(CONFIG).init)(jax.random.key(0))


def placed(**mesh):
    shapes = jax.eval_shape(transformer.Model(CONFIG).init, jax.random.key(0))
    return sharding.with_shardings(
        shapes, sharding.make_mesh(config.MeshConfig(**mesh))
    )


@pytest.mark.parametrize(
    "mesh", [{"data": 8}, {"data": 1, "fsdp": 8}, {"data": 1, "fsdp": 2, "model": 4}]
)
def test_parameters_come_back_on_any_mesh(params, tmp_path, mesh):
    write(tmp_path / "some.gguf", params)
    found = find(tmp_path / "some.gguf")
    assert found.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, found.load(placed(**mesh)), params)


def test_quantised_rows_are_close(params, tmp_path):
    write(tmp_path / "some.gguf", params, kind="Q8_0")
    loaded = find(tmp_path / "some.gguf").load(placed())
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=np.abs(y).max() / 100),
        loaded,
        params,
    )


def test_a_foreign_architecture_is_refused_by_field(params, tmp_path):
    write(tmp_path / "some.gguf", params, architecture="mamba")
    with pytest.raises(
        errors.ConfigError, match=r"some\.gguf: general\.architecture = 'mamba'"
    ):
        find(tmp_path / "some.gguf")


@pytest.mark.parametrize("kept", [0, 3, 300, -1])
def test_a_file_cut_short_is_named(params, tmp_path, kept):
    path = tmp_path / "some.gguf"
    write(path, params)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(errors.CheckpointError, match=r"some\.gguf .*cut short"):
        find(path).load(placed())


def test_what_does_not_fit_is_listed(params, tmp_path):
    missing = names.table(CONFIG)["blocks/1/mlp/up"].name
    write(tmp_path / "some.gguf", params, left_out=[missing])
    with pytest.raises(errors.CheckpointError, match=f"{missing} is missing"):
        find(tmp_path / "some.gguf").load(placed())
    wide = dataclasses.replace(CONFIG, mlp_size=96)
    with pytest.raises(errors.CheckpointError, match=r"some\.gguf: .* expected \[96"):
        weights.check(find(tmp_path / "some.gguf").source(), wide)
