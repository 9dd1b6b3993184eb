"""What the agent sees, and which cells it can walk to.

All geometry is in the agent's frame: a board of 8 x 8 cells, numbered row by row. Row 6
is the agent's own, row 0 lies six cells ahead; column 3 is straight ahead, column 0
three cells to the left. The agent sees rows 0 to 6 and columns 0 to 6. Row 7 (behind)
and column 7 exist because macro actions may also pass there, depending on the heading.

A *view* is 56 bytes, one cell code for each cell of rows 0 to 6. A set of cells is an
integer with one bit per cell.
"""

import functools
from collections.abc import Iterator

UNSEEN, EMPTY, WALL = 0, 1, 2  # codes of cells; objects follow
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
KINDS = ("key", "ball", "box", "open door", "closed door", "locked door")
NAMES = ("", "", "wall", *(f"{color} {kind}" for kind in KINDS for color in COLORS))
CODES = {name: code for code, name in enumerate(NAMES) if code >= WALL}

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)  # minigrid's own numbers

SIDE = 8
AGENT = 6 * SIDE + 3
AHEAD = AGENT - SIDE
_CELLS = range(SIDE * SIDE)
_SIGHT = 7  # cells seen ahead and across, the agent's own included


def _is_seen(cell: int) -> bool:
    return cell // SIDE < _SIGHT and cell % SIDE < _SIGHT and cell != AGENT


def _distance(cell: int) -> int:
    return abs(cell // SIDE - 6) + abs(cell % SIDE - 3)


# The order in which objects are told and numbered: near ones first, then far rows.
SCAN = tuple(sorted(filter(_is_seen, _CELLS), key=lambda cell: (_distance(cell), cell)))
STRAIGHT = tuple(range(AHEAD, -1, -SIDE))  # cells straight ahead, nearest first

NEIGHBOUR_SETS = tuple(
    sum(
        1 << other
        for other in _CELLS
        if abs(other // SIDE - cell // SIDE) + abs(other % SIDE - cell % SIDE) == 1
    )
    for cell in _CELLS
)

# A pose is 4 * cell + the quarter turns to the right from looking ahead.
_NUM_POSES = 4 * SIDE * SIDE
START = 4 * AGENT


def _look_ahead(pose: int) -> int:
    """The pose one cell further; that of cell 64 at the edge of the board."""
    cell, turns = divmod(pose, 4)
    further = cell + (-SIDE, 1, SIDE, -1)[turns]
    if further in _CELLS and NEIGHBOUR_SETS[cell] >> further & 1:
        return 4 * further + turns
    return _NUM_POSES


POSE_AHEAD = tuple(map(_look_ahead, range(_NUM_POSES)))
_TURNS = tuple(
    (pose & ~3 | pose - 1 & 3, pose & ~3 | pose + 1 & 3) for pose in range(_NUM_POSES)
)
_STEPS = tuple((POSE_AHEAD[p], *_TURNS[p]) for p in range(_NUM_POSES))

_BOARD = (1 << SIDE * SIDE) - 1
_COLUMN_0 = sum(1 << cell for cell in _CELLS if cell % SIDE == 0)
_COLUMN_7 = _COLUMN_0 << 7
_ROW_7 = 0xFF << 7 * SIDE
# Where paths may lead, by heading (right, down, left, up). Upstream counts cells from
# the corner of the view and takes one too many along decreasing coordinates.
WINDOWS = (
    _BOARD & ~_COLUMN_7,
    _BOARD,
    _BOARD & ~_ROW_7,
    _BOARD & ~_ROW_7 & ~_COLUMN_7,
)

_BLOCKS_SIGHT = bytes(
    name in ("wall",) or name.endswith(("closed door", "locked door")) for name in NAMES
).ljust(256, b"\0")
BLOCKS_PATH = bytes(bool(name) and not name.endswith("door") for name in NAMES)


@functools.cache
def _row_set(flags: bytes) -> int:
    """The columns whose flag is set."""
    return sum(1 << column for column, flag in enumerate(flags) if flag)


@functools.cache
def _spread(lit: int, opaque: int) -> tuple[int, int]:
    """Spreads sight along a row, from the columns lit by the row before.

    Returns:
      The columns seen in this row and those lit in the next one, as minigrid's
      `Grid.process_vis` finds them.
    """
    ahead = 0
    for columns, step in ((range(_SIGHT - 1), 1), (range(_SIGHT - 1, 0, -1), -1)):
        for column in columns:
            if lit >> column & 1 and not opaque >> column & 1:
                lit |= 1 << column + step
                ahead |= 1 << column | 1 << column + step
    return lit, ahead


@functools.cache
def _keep_mask(columns: int) -> int:
    return sum(0xFF << 8 * column for column in range(_SIGHT) if columns >> column & 1)


@functools.lru_cache(maxsize=8192)  # 2 MB; most rows hold one thing or none
def _see_row(row: bytes, lit: int) -> tuple[bytes, int]:
    """Hides what cannot be seen of a row; see `_spread`.

    Returns:
      The row, and the columns that are lit in the next one.
    """
    visible, lit = _spread(lit, _row_set(row.translate(_BLOCKS_SIGHT)))
    kept = int.from_bytes(row, "little") & _keep_mask(visible)
    return kept.to_bytes(SIDE, "little"), lit


def step_sizes(stride: int, heading: int) -> tuple[int, int]:
    """Index steps ahead and to the right, in a flat grid with rows of `stride`."""
    return ((1, stride), (stride, -1), (-1, -stride), (-stride, 1))[heading]


def take_view(cells: bytes, stride: int, at: int, heading: int, carried: int) -> bytes:
    """The view of an agent at index `at` of a flat grid of cell codes."""
    ahead, right = step_sizes(stride, heading)
    left, across = at - 3 * right, _SIGHT * right
    rows, lit = [], 1 << 3
    for corner in range(left, left + _SIGHT * ahead, ahead):
        row, lit = _see_row(cells[corner : corner + across : right], lit)
        rows.append(row)
        if not lit:
            break
    own = rows[0]
    rows[0] = own[:3] + bytes((carried,)) + own[4:]
    return bytes(SIDE * (_SIGHT - len(rows))) + b"".join(rows[::-1])


def flood(free: int) -> int:
    """The cells that can be reached from the agent's through `free` ones."""
    reached, grown = 0, 1 << AGENT
    while grown != reached:
        reached = grown
        sideways = (reached & ~_COLUMN_7) << 1 | (reached & ~_COLUMN_0) >> 1
        grown = reached | ((reached << SIDE | reached >> SIDE | sideways) & free)
    return reached


def find_walks(free: int, parents: bytearray) -> Iterator[int]:
    """Yields all poses that can be reached through `free` cells, near ones first.

    Among equally short ways to a pose `parents` keeps upstream's: upstream searches
    breadth-first (forward, left, right), queues a pose once for every way into it, and
    remembers the last. So the first queued pose at a target ends a search, but the way
    is traced through the last queued parents; both orders are kept here.

    Args:
      free: cells that may be crossed.
      parents: uint8[256], filled with the pose before each pose.
    """
    crossed = [free >> cell & 1 for cell in (*_CELLS, SIDE * SIDE)]
    known = bytearray(_NUM_POSES)
    known[START] = 1
    first = last = [START]
    while first:
        yield from first
        level: dict[int, int] = {}
        for pose in last:
            ahead = POSE_AHEAD[pose]
            for after in _STEPS[pose] if crossed[ahead >> 2] else _TURNS[pose]:
                if not known[after]:
                    level.pop(after, None)  # moves to the end
                    level[after] = pose
        order: dict[int, None] = {}
        for pose in first:
            for after in _STEPS[pose]:
                if after in level:
                    order[after] = None
        for after, pose in level.items():
            parents[after] = pose
            known[after] = 1
        first, last = list(order), list(level)


@functools.lru_cache(maxsize=2048)
def find_path(free: int, target: int, *, enter: bool) -> tuple[int, ...]:
    """Finds the shortest way to face `target`, or to stand on it with `enter`.

    Returns:
      Low-level actions; empty when the agent already stands so.

    Raises:
      ValueError: if there is no way.
    """
    parents = bytearray(_NUM_POSES)
    for pose in find_walks(free, parents):
        if (pose if enter else POSE_AHEAD[pose]) >> 2 == target:
            return tuple(trace(parents, pose))
    raise ValueError(f"no way to cell {target}; check `flood` first.")


def trace(parents: bytes | bytearray, pose: int) -> list[int]:
    """The low-level actions that lead to a pose found by `find_walks`."""
    actions = []
    while pose != START:
        before = parents[pose]
        if before >> 2 != pose >> 2:
            actions.append(FORWARD)
        else:
            actions.append(RIGHT if (pose - before) % 4 == 1 else LEFT)
        pose = before
    return actions[::-1]
