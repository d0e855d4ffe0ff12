"""The memory that a container leaves to its processes: Linux's control groups, versions 1 and 2."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Files:
    """Where a version keeps its figures, and what it calls the page cache, which is given back on demand."""

    root: Path
    limit: str
    usage: str
    cache: tuple[str, ...]

    def left(self, group: Path) -> float:
        """Bytes that the group may still take; infinite without a limit.

        Raises:
            OSError, ValueError, KeyError: there are no such figures.
        """
        limit = (group / self.limit).read_text().strip()
        if limit == "max":
            return float("inf")
        lines = (group / "memory.stat").read_text().splitlines()
        figures = {name: int(value) for name, value in (line.split() for line in lines)}
        cache = sum(figures[name] for name in self.cache)
        return max(int(limit) - int((group / self.usage).read_text()) + cache, 0)


def memory_left() -> float:
    """Bytes to the nearest limit of this process's group and of those around it; infinite without one."""
    return min((left for files, path in _groups() for left in _each(files, path)), default=float("inf"))


def _groups() -> Iterator[tuple[_Files, str]]:
    """This process's group in each version that has one."""
    with contextlib.suppress(OSError):
        for line in OWN.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                yield _Files(ROOT, "memory.max", "memory.current", ("active_file", "inactive_file")), path
            elif "memory" in controllers.split(","):
                cache = ("total_active_file", "total_inactive_file")
                files = _Files(ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", cache)
                yield files, path


def _each(files: _Files, path: str) -> Iterator[float]:
    """What is left in a group and in those around it; inside a container, some cannot be seen from there."""
    group = files.root / path.lstrip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):
            yield files.left(folder)
        if folder == files.root:
            return
