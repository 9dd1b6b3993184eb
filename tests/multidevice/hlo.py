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
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([\w', ]*)\}")  # named axes


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
        shape, dimensions = numbers(match[1]), numbers(match[2])
        ids = np.arange(np.prod(dimensions)).reshape(dimensions)
        if match[3]:
            ids = ids.transpose(numbers(match[3]))
        return [tuple(group) for group in ids.reshape(shape).tolist()]
    if match := _MESH.search(line):
        sizes = {name: int(n) for name, n in re.findall(r"('\w+')=(\d+)", match[1])}
        joined = [list(sizes).index(name) for name in re.findall(r"'\w+'", match[2])]
        ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        last = [*range(ids.ndim)][-len(joined) :]
        ids = np.moveaxis(ids, joined, last)
        size = math.prod(ids.shape[axis] for axis in last)
        return [tuple(group) for group in ids.reshape(-1, size).tolist()]
    if match := _LIST.search(line):
        if match[1]:
            return [tuple(numbers(g)) for g in re.findall(r"\{([\d,]+)\}", match[1])]
    elif "replica_groups" in line:
        raise ValueError(f"unknown notation of groups: {line}")
    return [tuple(range(num_devices))]  # no groups: everybody


def numbers(text):
    return [int(number) for number in text.split(",")]
