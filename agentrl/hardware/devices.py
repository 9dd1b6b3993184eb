"""The one table of accelerators: peak FLOP/s, memory, and bandwidths of a device.

A device is what JAX counts as one in `jax.devices()`. Numbers are the vendors' peaks, for
dense bfloat16. This module does not import JAX, so that commands can list its names.
"""

import dataclasses
import re
from typing import Literal

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of accelerator."""

    name: str  # in flags
    kind: str  # regular expression, matched at the start of `jax.Device.device_kind`
    platform: Literal["gpu", "tpu"]  # as `jax.default_backend` names it
    flops: float  # FLOP/s, dense bfloat16
    bandwidth: float  # bytes/s between the device and its memory
    hbm_bytes: float  # memory that programs can use
    interconnect: float  # bytes/s that a device sends to others of its slice or node


# The first match counts. Of GPUs the memory is what the driver reports, which is less
# than the data sheet says. Interconnects are half of the published bandwidth of both
# directions, over all links of a chip: ICI of TPUs, NVLink of GPUs, PCIe of one without.
DEVICES = (
    # https://docs.cloud.google.com/tpu/docs/v4
    Device(
        name="v4", kind="TPU v4", platform="tpu",
        flops=275e12, bandwidth=1228e9, hbm_bytes=32 * GIB,
        interconnect=300e9,
    ),
    # https://docs.cloud.google.com/tpu/docs/v5e
    Device(
        name="v5e", kind="TPU v5( lite|e)", platform="tpu",
        flops=197e12, bandwidth=819e9, hbm_bytes=16 * GIB,
        interconnect=200e9,
    ),
    # https://docs.cloud.google.com/tpu/docs/v5p
    Device(
        name="v5p", kind="TPU v5", platform="tpu",
        flops=459e12, bandwidth=2765e9, hbm_bytes=95 * GIB,
        interconnect=600e9,
    ),
    # https://docs.cloud.google.com/tpu/docs/v6e
    Device(
        name="v6e", kind="TPU v6", platform="tpu",
        flops=918e12, bandwidth=1638e9, hbm_bytes=32 * GIB,
        interconnect=400e9,
    ),
    # Ironwood: https://docs.cloud.google.com/tpu/docs/tpu7x has 2307 TFLOP/s, 7380 GB/s
    # and 192 GiB for a chip. JAX counts its two TensorCores as two devices.
    Device(
        name="v7x", kind="TPU ?v?7x", platform="tpu",
        flops=2307e12 / 2, bandwidth=7380e9 / 2, hbm_bytes=192 / 2 * GIB,
        interconnect=1200e9 / 4,
    ),
    # https://www.nvidia.com/en-us/data-center/a100/
    Device(
        name="a100-40g", kind="NVIDIA A100.*40GB", platform="gpu",
        flops=312e12, bandwidth=1555e9, hbm_bytes=40 * GIB,
        interconnect=300e9,
    ),
    Device(
        name="a100-80g", kind="NVIDIA A100", platform="gpu",
        flops=312e12, bandwidth=2039e9, hbm_bytes=80 * GIB,
        interconnect=300e9,
    ),
    # https://www.nvidia.com/en-us/data-center/h100/
    Device(
        name="h100-pcie", kind="NVIDIA H100 PCIe", platform="gpu",
        flops=756e12, bandwidth=2039e9, hbm_bytes=79.6 * GIB,
        interconnect=64e9,
    ),
    Device(
        name="h100", kind="NVIDIA H100", platform="gpu",
        flops=989e12, bandwidth=3350e9, hbm_bytes=79.6 * GIB,
        interconnect=450e9,
    ),
    # https://www.nvidia.com/en-us/data-center/h200/
    Device(
        name="h200", kind="NVIDIA H200", platform="gpu",
        flops=989e12, bandwidth=4800e9, hbm_bytes=140.4 * GIB,
        interconnect=450e9,
    ),
    # https://www.nvidia.com/en-us/data-center/dgx-b200/ has 72 PFLOP/s in sparse FP8, four
    # times that of dense bfloat16, and 64 TB/s for eight GPUs.
    Device(
        name="b200", kind="NVIDIA B200", platform="gpu",
        flops=2250e12, bandwidth=8000e9, hbm_bytes=179 * GIB,
        interconnect=900e9,
    ),
)  # fmt: skip


def find(device_kind: str) -> Device | None:
    """Returns the entry for a `jax.Device.device_kind`; None if the table has none."""
    for device in DEVICES:
        if re.match(device.kind, device_kind):
            return device
    return None


def names() -> list[str]:
    """Returns the names of all entries, sorted."""
    return sorted(device.name for device in DEVICES)


def get(name: str) -> Device:
    """Returns the entry called `name`.

    Raises:
      KeyError: if there is none.
    """
    return {device.name: device for device in DEVICES}[name]
