"""TPU slices that are not there: their devices, for a compiler that runs on any CPU.

The TPU compiler is a library, `libtpu`, which needs no TPU. JAX describes the devices of a
slice through it; what is lowered for a mesh of these devices compiles to the very program
that the slice would run, with its memory and cost, but cannot be run here.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from agentrl import errors
from agentrl.hardware import devices

INSTALL = "pip install 'agentrl-jax[tpu-plan]'"
_NAME = re.compile(r"(?P<kind>[a-z0-9]+):(?P<shape>\d+(x\d+){1,2})")
_DIMENSIONS = {"v5e": 2, "v6e": 2}  # of the torus; all other kinds have three
# https://docs.cloud.google.com/tpu/docs/v5e and v6e: no others are made. Those of three
# dimensions are parts of a cube of 4x4x4, or made of whole cubes.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_PARTS = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_HOST_SHAPE = {2: "2x2", 3: "2x2x1"}  # chips of a host of several, by dimensions


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice."""

    name: str  # as given, such as v5e:4x8
    device: devices.Device | None  # its entry in the table, if it has one
    devices: Sequence[Any]  # of all hosts, in JAX's order
    local_devices: Sequence[Any]  # of one host, on which it plays

    @property
    def num_hosts(self) -> int:
        """Processes that a run on it has."""
        return len({device.process_index for device in self.devices})


def parse(name: str) -> tuple[devices.Device, int]:
    """Returns the kind of device and the number of chips of a slice by its name.

    Raises:
      ConfigError: if it is not the name of a slice.
    """
    kinds = [d.name for d in devices.DEVICES if d.platform == "tpu"]
    found = _NAME.fullmatch(name)
    if not found or found["kind"] not in kinds:
        raise errors.ConfigError(
            f"--topology={name!r} is no TPU slice; give a kind out of {sorted(kinds)} and "
            "the shape of its torus, such as v5e:4x8 or v5p:2x2x4."
        )
    sizes = [int(size) for size in found["shape"].split("x")]
    wanted = _dimensions(found["kind"])
    if len(sizes) != wanted or not all(sizes):
        raise errors.ConfigError(
            f"--topology={name!r} has {len(sizes)} dimensions; a slice of "
            f"{found['kind']} has {wanted} positive ones, such as "
            f"{found['kind']}:{'x'.join('2' * wanted)}."
        )
    if not _exists(sizes):
        listed = (
            _FLAT if wanted == 2 else (*_PARTS, "multiples of 4 in ascending order")
        )
        raise errors.ConfigError(
            f"--topology={name!r}: there are no slices of this shape; those of "
            f"{found['kind']} are {', '.join(listed)}."
        )
    return devices.get(found["kind"]), math.prod(sizes)


def is_default(shape: str) -> bool:
    """Whether a slice of so many chips has this shape where none is asked for.

    Shapes of two dimensions are told by their number of chips. Of three, several may have
    one number, such as 8x8x8 and 4x8x16; the default is the one most like a cube.

    Args:
      shape: of a slice that exists, such as 4x4x8.
    """
    sizes = [int(size) for size in shape.split("x")]
    chips = math.prod(sizes)
    others = (
        [a, b, chips // a // b]
        for a in range(4, chips, 4)
        for b in range(a, chips // a + 1, 4)
        if chips % (a * b) == 0
    )
    return len(sizes) == 2 or all(
        sum(sizes) <= sum(other) for other in others if _exists(other)
    )


def _exists(sizes: Sequence[int]) -> bool:
    """Whether there are slices of these sizes."""
    if "x".join(map(str, sizes)) in (*_FLAT, *_PARTS):
        return True
    cubes = all(size % 4 == 0 for size in sizes)
    return len(sizes) == 3 and cubes and list(sizes) == sorted(sizes)


def attached() -> Slice:
    """Returns the devices that are here, of all processes of the run."""
    import jax

    found = jax.devices()
    kind = found[0].device_kind
    name = f"{len(found)} x {kind}"
    return Slice(name, devices.find(kind), found, jax.local_devices())


def open_slice(name: str) -> Slice:
    """Describes a slice by its name, with devices to compile for.

    Raises:
      ConfigError: if it is not the name of a slice, or there is no TPU compiler.
    """
    device, num_chips = parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise errors.ConfigError(
            f"--topology={name} needs the TPU compiler, the package libtpu: {INSTALL}"
        )
    # Nothing asks Google's metadata server for a TPU, several processes may compile at
    # once, as none of them uses a TPU, and the library keeps its log to itself.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", f"v5litepod-{num_chips}"),  # any will do
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_MIN_LOG_LEVEL", "3"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
        ("TF_CPP_MIN_LOG_LEVEL", "3"),
    ):
        os.environ.setdefault(variable, value)
    try:
        found = _describe(name)
        hosts = {device.process_index for device in found}
        # The compiler wants all devices of a slice: what a host does on its own is
        # compiled for a slice of one host.
        of_host = f"{device.name}:{_HOST_SHAPE[_dimensions(device.name)]}"
        local = found if len(hosts) == 1 else _describe(of_host)
    except Exception as error:
        raise errors.ConfigError(
            f"--topology={name}: the TPU compiler has no such slice, or cannot be "
            f"loaded: {str(error).splitlines()[0]}"
        ) from error
    return Slice(name, device, found, local)


def _describe(name: str) -> Sequence[Any]:
    """Returns the devices of a slice, by its name."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="tpu", topology_name=name.replace("v7x", "tpu7x")
    )
    return described.devices


def _dimensions(kind: str) -> int:
    return _DIMENSIONS.get(kind, 3)
