"""Every kernel compiles for every TPU of today, by the TPU compiler, without a TPU."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from agentrl.kernels import flash_decode, splash

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs libtpu: pip install --no-deps libtpu==0.0.42.1",
    ),
]
SLICES = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
COLUMNS, ROWS, LAYERS = 2048, 4, 3


@pytest.fixture(params=SLICES)
def make(request, monkeypatch):
    """Function from shapes and types to arrays on a device of a slice."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = topologies.get_topology_desc(platform="tpu", topology_name=request.param)
    placed = jax.sharding.SingleDeviceSharding(found.devices[0])
    return lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=placed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_splash_with_gradients(make, size, dtype):
    def loss(*arrays):
        return jnp.sum(splash.attend(*arrays).astype(jnp.float32))

    shapes = [(1, COLUMNS, heads, size) for heads in (14, 2, 2)]
    arrays = [make(shape, dtype) for shape in shapes]
    ids = make((1, COLUMNS), "int32")
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays, ids).compile()
    scores = 14 * COLUMNS**2 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("chunk", [1, 256])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_flash_decode_copies_no_cache(make, size, chunk, dtype):
    new = [(ROWS, chunk, heads, size) for heads in (14, 2, 2)]
    cache = (LAYERS, ROWS, 2, COLUMNS, flash_decode.round_up(size))
    arrays = [make(shape, dtype) for shape in (*new, cache, cache)]
    integers = [make(shape, "int32") for shape in ((ROWS,), (ROWS,), ())]
    append = jax.jit(flash_decode.append_and_attend, donate_argnums=(3, 4))
    memory = append.lower(*arrays, *integers).compile().memory_analysis()
    cache_bytes = 2 * jnp.dtype(dtype).itemsize * jnp.zeros(cache, "int8").size
    assert memory.alias_size_in_bytes >= cache_bytes
    assert memory.temp_size_in_bytes < cache_bytes / LAYERS / 4
