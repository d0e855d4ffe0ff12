"""Runs one command and stops it, with everything it started, when the parent process goes away.

The parent holds the other end of standard input, which closes when the parent ends, even by SIGKILL. Standard
library only, and started with `python -I -S`: it costs about 10 MB.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
PR_SET_PDEATHSIG = 1


def _die_with_the_supervisor() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def main(command: list[str]) -> int:
    """Run `[--cpus=0,1,...] COMMAND ...` until it ends or is told to stop; returns its exit status."""
    if command[0].startswith("--cpus="):
        os.sched_setaffinity(0, map(int, command[0].removeprefix("--cpus=").split(",")))
        command = command[1:]
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_the_supervisor
    )
    while child.poll() is None and not stop:
        readable, _, _ = select.select([sys.stdin], [], [], 0.2)
        if readable and not os.read(0, 1):
            break
    _signal_group(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        child.poll()
        if not _signal_group(child.pid, 0):
            break
        time.sleep(0.05)
    with contextlib.suppress(PermissionError):
        _signal_group(child.pid, signal.SIGKILL)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
