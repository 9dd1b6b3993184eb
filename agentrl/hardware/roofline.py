"""Hardware utilisation: FLOPs of the learner, bytes that decoding reads.

`perf/mfu` is the FLOP/s that the model needs, over the peak. `perf/mbu` is the bytes that
decoding has to read, weights and cached tokens, per second with a turn on the devices,
over their memory bandwidth. As prefill is part of that time, it is a lower bound.
"""

import functools
import resource
import sys
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from agentrl.hardware import devices
from agentrl.models import model_config


def train_flops(
    model: model_config.ModelConfig, tokens: float, action_tokens: float, pairs: float
) -> float:
    """Returns the floating-point operations that one pass of training needs.

    6 for each weight of a matrix and token: a multiplication and an addition, in the
    forward pass and twice in the backward pass. Attention adds 12 x head size for each
    head, layer and pair of query and key. Logits are needed for actions only. Recomputed
    activations, padding and reference models do not count.

    Args:
      model: shape of the transformer.
      tokens: trained on, without padding.
      action_tokens: of these, sampled by the policy.
      pairs: (query, key) pairs of attention within trajectories.
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
    """Returns the FLOP/s of all devices of the run: from the table, else measured."""
    if device := devices.find(jax.devices()[0].device_kind):
        return device.flops * jax.device_count()
    return measure_flops() * jax.process_count()


def measure_flops(size: int = 1024, repeats: int = 5) -> float:
    """Measures the FLOP/s of a float32 matrix product on one device, best of `repeats`.

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
    """Returns the memory bandwidth of all devices of the run, in bytes per second.

    From the table, else the best of five copies: virtual CPU devices share the memory.
    """
    if device := devices.find(jax.devices()[0].device_kind):
        return device.bandwidth * jax.device_count()
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
    """Returns the utilisation metrics `perf/*` of one iteration.

    With overlap the time of an update includes the concurrent rollout.

    Args:
      values: the iteration's other metrics.
      model: shape of the transformer.
      peak: FLOP/s, from `peak_flops`.
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
    if (
        rate := values.get("perf/decode_bytes_per_second")
    ) is not None:  # of this process
        found["perf/mbu"] = rate * jax.process_count() / memory_bandwidth()
    return found | peak_memory()


def peak_memory() -> dict[str, float]:
    """Returns the most memory that this process has used so far, and its fullest device.

    Platforms that do not count the memory of devices, such as CPUs, have no number of it.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = {"perf/host_memory_bytes": float(resident)}
    counted = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in counted if "peak_bytes_in_use" in one]
    if peaks:
        found["perf/device_memory_bytes"] = float(max(peaks))
    return found
