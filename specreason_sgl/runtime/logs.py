"""Servers' logs: a file for each launch, of which only the end is read. The supervisor bounds their size."""

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime.weights import cache_dir

KEPT = 50  # files of earlier launches
END = 100_000  # bytes that are read
ERROR = re.compile(r"\w(Error|Exception)\b.*:|^error:| error: ")


def new_log(name: str) -> Path:
    """An empty file, readable by its owner only: SGLang logs its settings, the API key among them.

    The oldest of earlier launches are removed.

    Raises:
        LaunchError: the folder for logs cannot be written.
    """
    folder = cache_dir() / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, path = tempfile.mkstemp(".log", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-", folder)
    except OSError as error:
        raise LaunchError(
            f"the log folder {folder} cannot be written ({error.strerror}); set SPECREASON_SGL_CACHE"
        ) from None
    os.close(file)
    with contextlib.suppress(OSError):  # others may remove some at the same time
        for old in sorted(folder.glob("*.log*"), key=os.path.getmtime)[:-KEPT]:
            old.unlink()
    return Path(path)


def last_error(log: Path, start: str) -> str:
    """The last line that names an error, else the last line.

    Args:
        start: the line that the latest start of the server begins with; what is before it does not count.
    """
    _, _, latest = ("\n" + _end(log)).rpartition(f"\n{start}\n")
    lines = [line.strip() for line in latest.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.search(line)]
    return (errors or lines or ["nothing in its log"])[-1]


def _end(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - END, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
