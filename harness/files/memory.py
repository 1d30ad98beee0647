"""How much main memory there is, and refusing what needs more before it begins."""

from __future__ import annotations

import resource
from pathlib import Path

from harness.errors import UserError


def available_memory() -> int | None:
    """Bytes of main memory that this process may still take, as the machine, its control group and its limits allow.

    None where the system does not say (only Linux and processes under ``ulimit -v`` do).
    """
    free = [_meminfo("/proc/meminfo", "MemAvailable:"), *_control_group()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - (_meminfo("/proc/self/status", "VmSize:") or 0))
    known = [max(number, 0) for number in free if number is not None]
    return min(known) if known else None


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse, before it begins, what needs more main memory than there is.

    Args:
        needed: an estimate, in bytes.
        what: what needs it, such as ``context 20000``.
        remedy: what to do instead.

    Raises:
        UserError: ``needed`` is more than :func:`available_memory`.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise UserError(f"{what}: needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; {remedy}")


def _meminfo(path: str, name: str) -> int | None:
    """A figure in kB of one of the kernel's lists, in bytes."""
    try:
        with open(path) as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
    except (OSError, ValueError, IndexError):
        return None


def _control_group() -> list[int]:
    """What the memory limits of this process's control group (version 2) and of those around it leave, in bytes.

    Pages of files that the kernel can drop (``inactive_file``) count as free.
    """
    root = Path("/sys/fs/cgroup")
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group, left = root / line.removeprefix("0::").strip("/"), []
    for folder in (group, *group.parents):
        try:
            limit, used = (folder / "memory.max").read_text().strip(), int((folder / "memory.current").read_text())
            stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            if limit != "max":
                left.append(int(limit) - used + int(stat.get("inactive_file", 0)))
        except (OSError, ValueError):
            continue
        if folder == root:
            break
    return left
