"""How much of the machine is used: FLOPs of the learner, bytes of decoding.

`perf/mfu` is what the model needs over the peak. `perf/mbu` is what decoding has to read,
weights and cache columns in use, over the time with a turn on the devices and what their
memory allows; as that time holds the appending of observations, too, it is a lower bound.
"""

import functools
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from agentrl.models import config as model_config

# Dense bf16 FLOP/s of one device, from the vendors' data sheets, by the beginning of
# `jax.Device.device_kind`; the first that fits counts.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
PEAK_BYTES = {  # per second, between a device and its memory; as above
    "TPU v4": 1228e9,
    "TPU v5 lite": 819e9,
    "TPU v5e": 819e9,
    "TPU v5": 2765e9,
    "TPU v6": 1638e9,
    "NVIDIA A100": 2039e9,
    "NVIDIA H100 PCIe": 2039e9,
    "NVIDIA H100": 3350e9,
    "NVIDIA H200": 4800e9,
}


def train_flops(
    model: model_config.ModelConfig, tokens: float, action_tokens: float, pairs: float
) -> float:
    """Floating-point operations that one pass of training needs.

    6 for each weight of a matrix and token: a multiplication and an addition, forward and
    twice backward. Attention adds 12 x head size for each head, layer and pair of a token
    with one that it sees. Logits are needed for actions only. Work done again to save
    memory, on padding or for a reference model does not count.

    Args:
      model: shape of the transformer.
      tokens: trained on, padding left out.
      action_tokens: of these, written by the policy.
      pairs: (token, token it attends to) within trajectories.
    """
    heads = model.num_heads * model.head_dim
    kv_heads = model.num_kv_heads * model.head_dim
    layer = model.hidden_size * (2 * heads + 2 * kv_heads + 3 * model.mlp_size)
    logits = model.hidden_size * model.vocab_size
    return (
        6 * tokens * model.num_layers * layer
        + 6 * action_tokens * logits
        + 12 * pairs * model.num_layers * heads
    )


def peak_flops() -> float:
    """FLOP/s of all devices of the run: from the table, or measured if not in it."""
    kind = jax.devices()[0].device_kind
    listed = [peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)]
    if listed:
        return listed[0] * jax.device_count()
    return measure_flops() * jax.process_count()


def measure_flops(size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a float32 matrix product on one device, the best of some.

    Virtual CPU devices share the processor, so one of them measures the whole host.
    """
    multiply = jax.jit(jnp.matmul)
    matrix = jax.block_until_ready(multiply(*[jnp.ones((size, size))] * 2))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


@functools.cache
def memory_bandwidth() -> float:
    """Bytes per second that all devices of the run can move.

    From the table, or the best of five copies: virtual CPU devices share the memory.
    """
    kind = jax.devices()[0].device_kind
    listed = [b for name, b in PEAK_BYTES.items() if kind.startswith(name)]
    if listed:
        return listed[0] * jax.device_count()
    copy = jax.jit(lambda x: x + 1)
    source = copy(jnp.zeros(1 << 25, jnp.float32))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        copy(source).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * source.nbytes / min(seconds) * jax.process_count()


def summarize(
    values: Mapping[str, float], model: model_config.ModelConfig, peak: float
) -> dict[str, float]:
    """Speed of one iteration against the machine's limits, from its other metrics.

    With overlap the time of an update includes the rollout beside it.
    """
    tokens, seconds = values["learner/tokens"], max(values["time/update"], 1e-9)
    flops = train_flops(
        model,
        tokens,
        values["learner/trained_actions"],
        values["learner/attention_pairs"],
    )
    found = {
        "perf/learner_tokens_per_second": tokens / seconds,
        "perf/mfu": flops / seconds / peak,
    }
    if (rate := values.get("perf/decode_bytes_per_second")) is not None:  # of this host
        found["perf/mbu"] = rate * jax.process_count() / memory_bandwidth()
    return found
