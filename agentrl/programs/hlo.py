"""The cost of a compiled program, read from its HLO, with loops counted as they run.

`Compiled.cost_analysis` counts the body of a loop once, however often it runs. Here each
loop counts its trips, where the compiler knows them (layers, chunks of logits), and the
costliest loop whose trips depend on data (microbatches of an update, tokens of an action)
is given apart, for one trip.

FLOPs are those of matrix products and convolutions. Bytes are what instructions at the top
of a computation read and write; what lies inside of a fusion, or in the on-chip memory of
a TPU (layouts with `S(1)`), moves no byte, a slice moves its own size and an update in
place the size of the update. So counted, with each body once, the sums are those of
`cost_analysis`, which a test compares.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_SIZES = {
    "pred": 1,
    "token": 0,
    "opaque": 0,
    "s4": 0.5,
    "u4": 0.5,
}  # else by the number
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_HEAD = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|called_computations?"
    r"|true_computation|false_computation)=\{?%?([\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "iota", "opt-barrier", "add-dependency", "domain"),
}
_COLLECTIVES = {  # bytes that a device sends, of an array and the size of the group
    "all-gather": lambda size, n: size * (n - 1) / n,  # of the result
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1),  # of the result
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "collective-permute": lambda size, n: size,
    "collective-broadcast": lambda size, n: size,
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device."""

    flops: float = 0.0
    bytes: float = 0.0  # of its memory
    sent: float = 0.0  # bytes to other devices, by collectives

    def __add__(self, other: "Cost") -> "Cost":
        """Returns the sum."""
        return Cost(
            self.flops + other.flops, self.bytes + other.bytes, self.sent + other.sent
        )

    def __mul__(self, times: float) -> "Cost":
        """Returns the cost of so many repetitions."""
        return Cost(self.flops * times, self.bytes * times, self.sent * times)


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """What a call of a program costs: `once`, and `trip` for each trip of its loop."""

    once: Cost
    trip: Cost = dataclasses.field(default_factory=Cost)

    def of(self, trips: float) -> Cost:
        """Returns the cost of a call whose loop makes so many trips."""
        return self.once + self.trip * trips


@dataclasses.dataclass(frozen=True)
class Array:
    """Type of one array."""

    dims: tuple[int, ...]
    bytes: float
    on_chip: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result; several of a tuple
    operands: tuple[str, ...]
    rest: str  # attributes
    is_root: bool
    index: int = -1  # of a parameter; the value of a whole number


Computation = Mapping[str, Instruction]


def analyze(text: str, *, loops_once: bool = False) -> ProgramCost:
    """Returns the cost of a program on one device.

    Args:
      text: of `Compiled.as_text()`.
      loops_once: counts each body once and all memory alike, as `cost_analysis` does.
    """
    computations, entry = parse(text)
    return _Analysis(computations, loops_once).cost(entry)


def parse(text: str) -> tuple[Mapping[str, Computation], str]:
    """Returns the computations of a module by name, and the name of its entry."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif head := _HEAD.match(line):
            made = _parse_instruction(head[2], head[3], bool(head[1]))
            current[made.name] = made
    return computations, entry


def _parse_instruction(name: str, line: str, is_root: bool) -> Instruction:
    kind, line = _split_type(line)
    opcode, _, line = line.partition("(")
    end = _closing(line)
    inside, rest, opcode = line[:end], line[end + 1 :], opcode.strip()
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    whole = opcode in ("parameter", "constant") and inside.isdigit()
    index = int(inside) if whole else -1
    return Instruction(name, opcode, _arrays(kind), operands, rest, is_root, index)


def _split_type(line: str) -> tuple[str, str]:
    """Splits the type of a result, perhaps a tuple, from what follows it."""
    if line.startswith("("):
        end = _closing(line[1:]) + 2
        return line[:end], line[end:].lstrip()
    kind, _, rest = line.partition(" ")
    return kind, rest


def _closing(text: str) -> int:
    """Returns the position of the parenthesis that closes one before `text`."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(text)


@functools.lru_cache(maxsize=65_536)
def _arrays(kind: str) -> tuple[Array, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(kind):
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        bits = re.search(r"\d+", dtype)
        width = _SIZES.get(dtype, int(bits[0]) / 8 if bits else 0)
        found.append(Array(sizes, math.prod(sizes) * width, "S(" in layout))
    return tuple(found)


class _Analysis:
    def __init__(self, computations: Mapping[str, Computation], loops_once: bool):
        self._computations = computations
        self._loops_once = loops_once
        self._costs: dict[str, ProgramCost] = {}

    def cost(self, name: str) -> ProgramCost:
        """Returns the cost of a computation, with what it calls."""
        if name not in self._costs:
            once, loops = Cost(), []
            body = self._computations.get(name, {})
            for instruction in body.values():
                found = self._instruction_cost(instruction, body)
                once += found.once
                loops += [found.trip] if found.trip != Cost() else []
            loops.sort(key=lambda trip: max(trip.bytes, trip.flops / 100))
            for trip in loops[:-1]:  # one trip of each but the costliest
                once += trip
            self._costs[name] = ProgramCost(once, loops[-1] if loops else Cost())
        return self._costs[name]

    def _instruction_cost(
        self, instruction: Instruction, body: Computation
    ) -> ProgramCost:
        opcode = instruction.opcode
        called = _CALLED.findall(instruction.rest)
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return ProgramCost(Cost())
        if opcode == "while":
            return self._loop_cost(instruction, called)
        if opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
            named = re.findall(r"%([\w.\-]+)", branches[1]) if branches else called
            costs = [self.cost(name) for name in named]
            return max(costs, key=lambda c: c.of(1).bytes, default=ProgramCost(Cost()))
        if opcode in ("call", "async-start"):
            found = ProgramCost(Cost())
            for name in called:
                inner = self.cost(name)
                found = ProgramCost(found.once + inner.once, found.trip + inner.trip)
            return found
        return ProgramCost(
            Cost(
                self._flops(instruction, body),
                self._bytes(instruction, body),
                self._sent(instruction, body),
            )
        )

    def _loop_cost(self, loop: Instruction, called: Sequence[str]) -> ProgramCost:
        trip = Cost()
        for name in called:
            trip += self.cost(name).of(1)
        if self._loops_once:
            return ProgramCost(trip)
        trips = self._count_trips(loop)
        return ProgramCost(Cost(), trip) if trips is None else ProgramCost(trip * trips)

    def _count_trips(self, loop: Instruction) -> int | None:
        """Returns how often a loop runs; None if that depends on data.

        Where the compiler has left no note, the loop is one of `jax.lax.scan` if all that
        it asks is whether a counter is below a constant.
        """
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        name = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        condition = self._computations.get(name[1], {}) if name else {}
        root = next((i for i in condition.values() if i.is_root), None)
        operands = (
            [condition[n] for n in root.operands if n in condition] if root else []
        )
        if root is not None and root.opcode == "fusion":
            inner = self._computations.get(_CALLED.findall(root.rest)[0], {})
            root = next((i for i in inner.values() if i.is_root), None)
            compared = [inner[n] for n in root.operands if n in inner] if root else []
            operands = [
                operands[i.index] if i.opcode == "parameter" else i for i in compared
            ]
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        kinds = [i.opcode for i in operands]
        if kinds != ["get-tuple-element", "constant"] or operands[1].index < 0:
            return None
        return operands[1].index

    def _flops(self, instruction: Instruction, body: Computation) -> float:
        """Of matrix products, those inside of fusions included."""
        opcode = instruction.opcode
        if opcode == "dot":
            return _dot_flops(instruction, body)
        if opcode == "convolution":
            return _convolution_flops(instruction, body)
        if opcode == "fusion":
            return self._inside(instruction, self._flops)
        if opcode == "custom-call":
            return _estimate(instruction.rest, "flops") or 0.0
        return 0.0

    def _sent(self, instruction: Instruction, body: Computation) -> float:
        """Bytes that collectives send, those inside of fusions included."""
        opcode = instruction.opcode.removesuffix("-start")
        if opcode == "fusion":
            return self._inside(instruction, self._sent)
        if opcode not in _COLLECTIVES:
            return 0.0
        arrays = instruction.arrays
        if instruction.opcode.endswith("-start") and len(arrays) > 1:
            arrays = arrays[
                len(instruction.operands) :
            ]  # results stand behind operands
        size = sum(a.bytes for a in arrays if a.dims)  # not of scalars: contexts
        return _COLLECTIVES[opcode](size, _group_size(instruction.rest))

    def _inside(self, fusion: Instruction, count) -> float:
        total = 0.0
        for name in _CALLED.findall(fusion.rest):
            inner = self._computations.get(name, {})
            total += sum(count(instruction, inner) for instruction in inner.values())
        return total

    def _bytes(self, instruction: Instruction, body: Computation) -> float:
        """Bytes of the device's memory that an instruction reads and writes."""
        opcode, operands = instruction.opcode, instruction.operands
        result = self._size(instruction.arrays)
        if opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * result
        if opcode == "dynamic-update-slice":
            return 2 * self._operand_size(operands[1:2], body)
        if opcode == "scatter":
            return 2 * self._operand_size(operands[2:3], body) + self._operand_size(
                operands[1:2], body
            )
        if opcode == "custom-call":
            estimate = _estimate(instruction.rest, "bytes_accessed")
            if estimate is not None:
                return estimate
            # In place: nobody knows how much of it a kernel reads.
            in_place = set(map(int, re.findall(r"\}: \((\d+),", instruction.rest)))
            read = [n for i, n in enumerate(operands) if i not in in_place]
            return self._operand_size(read, body) + (0 if in_place else result)
        if opcode == "fusion":
            inner = self._computations.get(_CALLED.findall(instruction.rest)[0], {})
            reads = self._fusion_reads(operands, body, inner)
            return reads + self._written(instruction.arrays, inner)
        if opcode.endswith("-start"):  # holds its operands beside the result
            result = max(result - self._operand_size(operands, body), 0)
        return result + self._operand_size(operands, body)

    def _size(self, arrays: Iterable[Array]) -> float:
        return sum(a.bytes for a in arrays if self._loops_once or not a.on_chip)

    def _operand_size(self, names: Sequence[str], body: Computation) -> float:
        return sum(self._size(body[name].arrays) for name in names if name in body)

    def _fusion_reads(
        self, operands: Sequence[str], body: Computation, inner: Computation
    ) -> float:
        total, users = 0.0, _users(inner)
        for parameter in inner.values():
            if parameter.opcode == "parameter" and parameter.index < len(operands):
                operand = operands[parameter.index : parameter.index + 1]
                read = self._read_inside(parameter, inner, users)
                total += min(self._operand_size(operand, body), read)
        return total

    def _read_inside(
        self,
        value: Instruction,
        inner: Computation,
        users: Mapping[str, Sequence[Instruction]],
        result: tuple[Any, ...] | None = None,
    ) -> float:
        """Bytes of a value that its users read: slices read their own size.

        Args:
          value: of the computation of a fusion.
          inner: that computation.
          users: of its values.
          result: if the fusion is part of another one, where its result is used: these
            arguments for it. A copy there moves what is sliced from it.
        """
        total = 0.0
        if value.is_root:
            total += math.inf if result is None else self._read_inside(*result)
        for user in users.get(value.name, ()):
            first = user.operands[0] == value.name
            if user.opcode in ("dynamic-slice", "slice", "gather") and first:
                total += sum(array.bytes for array in user.arrays)
            elif user.opcode == "dynamic-update-slice" and first:
                continue  # written in place
            elif user.opcode in ("bitcast", "copy"):
                total += self._read_inside(user, inner, users, result)
            elif user.opcode == "fusion":
                nested = self._computations.get(_CALLED.findall(user.rest)[0], {})
                nested_users = _users(nested)
                outer = (user, inner, users, result)
                for parameter in nested.values():
                    if (
                        parameter.opcode == "parameter"
                        and user.operands[parameter.index] == value.name
                    ):
                        total += self._read_inside(
                            parameter, nested, nested_users, outer
                        )
            else:
                return math.inf
        return total

    def _written(self, arrays: Sequence[Array], inner: Computation) -> float:
        """Bytes that a fusion writes: of an update in place, those of the update."""
        roots = [i for i in inner.values() if i.is_root]
        if roots and roots[0].opcode == "tuple":
            roots = [inner[name] for name in roots[0].operands]
        total = 0.0
        for array, root in zip(arrays, roots, strict=False):
            whole = self._size([array])
            while root.opcode == "bitcast" and root.operands[0] in inner:
                root = inner[root.operands[0]]
            if root.opcode == "dynamic-update-slice":
                update = inner[root.operands[1]]
                whole = min(whole, sum(a.bytes for a in update.arrays))
            elif root.opcode == "fusion" and len(root.arrays) == 1:
                nested = self._computations.get(_CALLED.findall(root.rest)[0], {})
                whole = min(whole, self._written([array], nested))
            total += whole
        return total


def _users(computation: Computation) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {}
    for instruction in computation.values():
        for name in dict.fromkeys(instruction.operands):
            found.setdefault(name, []).append(instruction)
    return found


def _estimate(rest: str, name: str) -> float | None:
    """Returns what a kernel says of its own cost; None if it says nothing."""
    found = re.search(r'"cost_estimate":\{[^}]*"' + name + r'":"?(\d+)', rest)
    return float(found[1]) if found else None


def _group_size(rest: str) -> int:
    """Returns how many devices take part in a collective."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    return 2


def _dot_flops(dot: Instruction, body: Computation) -> float:
    left = body[dot.operands[0]].arrays[0].dims
    named = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)
    contracted = [int(d) for d in named[1].split(",") if d] if named else []
    return 2 * math.prod(dot.arrays[0].dims) * math.prod(left[d] for d in contracted)


def _convolution_flops(convolution: Instruction, body: Computation) -> float:
    """Counts the products that padding and dilation leave; TPUs write batches as windows.

    A batched product becomes a convolution over the batch, whose window sees one entry at
    a time: only positions inside of the input count.
    """
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", convolution.rest)
    if labels is None:
        return 0.0
    left, right = (body[name].arrays[0].dims for name in convolution.operands[:2])
    result = convolution.arrays[0].dims
    window = {
        name: values.split("x")
        for name, values in re.findall(
            r"(\w+)=([\dx_\-]+)",
            (re.search(r"window=\{([^}]*)\}", convolution.rest) or [""] * 2)[1],
        )
    }
    groups = re.search(r"feature_group_count=(\d+)", convolution.rest)
    batches = re.search(r"batch_group_count=(\d+)", convolution.rest)
    count = 2.0 * right[labels[2].index("i")] * result[labels[3].index("f")]
    count *= result[labels[3].index("b")]
    del groups, batches  # sizes of the kernel and the result are those of a group
    for spatial in (c for c in labels[1] if c.isdigit()):
        at = int(spatial)

        def get(name: str, default: str, at: int = at) -> str:
            return window[name][at] if name in window else default

        low = int(get("pad", "0_0").split("_")[0])
        count *= _positions(
            size=left[labels[1].index(spatial)],
            kernel=right[labels[2].index(spatial)],
            results=result[labels[3].index(spatial)],
            stride=int(get("stride", "1")),
            low=low,
            dilation=int(get("lhs_dilate", "1")),
            kernel_dilation=int(get("rhs_dilate", "1")),
        )
    return count


@functools.lru_cache(maxsize=4096)
def _positions(
    *,
    size: int,
    kernel: int,
    results: int,
    stride: int,
    low: int,
    dilation: int,
    kernel_dilation: int,
) -> int:
    """Counts pairs of a result and a kernel position that meet an entry of the input."""
    if kernel == 1 and stride == 1 and dilation == 1 and low == 0:
        return min(results, size)
    at = np.arange(results)[:, None] * stride - low
    at = at + np.arange(kernel)[None] * kernel_dilation
    return int(np.sum((at % dilation == 0) & (at >= 0) & (at < size * dilation)))
