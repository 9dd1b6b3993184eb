"""Memory of processes and of process groups, as Linux counts it, in bytes."""

import os
import pathlib

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = pathlib.Path("/proc")


def is_measurable() -> bool:
    """Returns whether this system tells the memory of processes, as Linux does."""
    return (_PROC / "self" / "statm").exists()


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read(128).split()[1]) * _PAGE


def group_bytes() -> dict[int, int]:
    """Returns the resident memory of every process group, by its id.

    Pages that processes share, as a forked one does with its parent, count for each.
    """
    total: dict[int, int] = {}
    for _, group, resident in _list_processes():
        total[group] = total.get(group, 0) + resident
    return total


def proportional_bytes(group: int) -> int:
    """Returns the memory of a process group with shared pages counted once.

    This is exact and slow: the kernel walks the page tables.
    """
    return sum(
        _proportional(pid) for pid, found, _ in _list_processes() if found == group
    )


def _list_processes() -> list[tuple[int, int, int]]:
    """Returns id, group and resident bytes of each process."""
    found = []
    for name in os.listdir(_PROC):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                # The name in parentheses may hold anything.
                fields = file.read(4096).rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        found.append((int(name), int(fields[2]), int(fields[21]) * _PAGE))
    return found


def _proportional(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
