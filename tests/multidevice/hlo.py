"""Reads from compiled HLO which devices each collective operation waits for."""

import math
import re

import numpy as np

_COLLECTIVE = re.compile(
    r"\s(all-reduce|all-gather|collective-permute|reduce-scatter|all-to-all"
    r"|ragged-all-to-all|collective-broadcast)(?:-start)?\("
)
_LIST = re.compile(r"replica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)  # [groups,size]<=[dimensions], perhaps transposed
# Named axes, a part of one as `:(size of what is before)size`, perhaps other device ids.
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S*)\))? \{([^}]*)\}"
)
_AXIS = re.compile(r"('[^']*')(?::\((\d+)\)(\d+))?")


def collectives(text, num_devices):
    """(operation, groups of device numbers) of each collective in the text of a module.

    A collective-permute has pairs, not groups. XLA's CPU backend lets all devices meet
    before it moves anything, hence it counts as one group of all of them.
    """
    found = []
    for line in text.splitlines():
        if match := _COLLECTIVE.search(line):
            groups = (
                [tuple(range(num_devices))]
                if match[1] == "collective-permute"
                else _groups(line, num_devices)
            )
            found.append((match[1], groups))
    return found


def _groups(line, num_devices):
    if match := _IOTA.search(line):
        return _to_tuples(_iota(*match.groups()))
    if match := _MESH.search(line):
        return _mesh_groups(*match.groups())
    if match := _LIST.search(line):
        if match[1]:
            return [tuple(numbers(g)) for g in re.findall(r"\{([\d,]+)\}", match[1])]
    elif "replica_groups" in line:
        raise ValueError(f"unknown notation of groups: {line}")
    return [tuple(range(num_devices))]  # no groups: everybody


def _iota(shape, dimensions, order):
    """Device numbers in `shape`, counted over `dimensions`, which are transposed."""
    dimensions = numbers(dimensions)
    ids = np.arange(math.prod(dimensions)).reshape(dimensions)
    return (ids.transpose(numbers(order)) if order else ids).reshape(numbers(shape))


def _mesh_groups(axes, device_ids, joined):
    """Groups over some axes of a mesh, or parts of them."""
    sizes = {name: int(n) for name, n in re.findall(r"('[^']*')=(\d+)", axes)}
    parts = {
        name: (int(before), int(size)) if size else (1, sizes[name])
        for name, before, size in _AXIS.findall(joined)
    }
    shape, last = [], []
    for name, total in sizes.items():
        before, size = parts.get(name, (total, 1))
        shape += [before, size, total // before // size]
        last += [len(shape) - 2] if name in parts else []
    ids = np.arange(math.prod(sizes.values()))
    if iota := re.fullmatch(
        r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids or ""
    ):
        ids = _iota(*iota.groups())
    elif device_ids:
        ids = np.array(numbers(device_ids.strip("[]{}")))
    size = math.prod(shape[axis] for axis in last)
    ids = np.moveaxis(ids.reshape(shape), last, range(-len(last), 0))
    return _to_tuples(ids.reshape(-1, size))


def _to_tuples(groups):
    return [tuple(group) for group in groups.tolist()]


def numbers(text):
    return [int(number) for number in text.split(",")]
