"""Runs one command, keeps its log, and stops it with everything it started when the parent process goes away.

The parent holds the other end of standard input, which closes when the parent ends, even by SIGKILL. Children
that the parent forked hold it, too, so its process id is watched as well. Standard library only, and started
with `python -I -S`: it costs about 10 MB.
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
POLL = 0.2  # seconds
CHUNK = 1 << 16  # bytes
LOG_LIMIT = 10_000_000  # bytes; a log that has more becomes LOG.1, in place of an earlier one
PR_SET_PDEATHSIG = 1


def append(log: str, data: bytes) -> None:
    """Append to a log. What cannot be written, as on a full disk, is lost: the server must go on."""
    with contextlib.suppress(OSError):
        if os.path.getsize(log) > LOG_LIMIT:
            os.replace(log, log + ".1")
    with contextlib.suppress(OSError):
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, data)
        finally:
            os.close(file)


class Supervisor:
    """One command, as a process group of its own.

    Args:
        log: the file that the command's output is appended to; empty: it goes where the supervisor's goes.
    """

    def __init__(self, command: list[str], log: str):
        self.parent, self.log = os.getppid(), log
        self.told_to_stop = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log else None,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
            preexec_fn=_die_with_the_supervisor,
        )
        self._output = self.child.stdout.fileno() if log else None
        self._watched = [0, self._output] if log else [0]

    def run(self) -> int:
        """Return the command's exit status when it has ended, by itself or because it was told to stop."""
        while self.child.poll() is None and not self.told_to_stop:
            self._wait(POLL)
            if os.getppid() != self.parent:
                break
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            self._wait(0.05)
            self.child.poll()
            if not self._signal(0):
                break
        with contextlib.suppress(PermissionError):
            self._signal(signal.SIGKILL)
        while self._output in self._watched and self._wait(0):
            pass
        return self.child.wait()

    def _stop(self, *_) -> None:
        self.told_to_stop = True

    def _wait(self, seconds: float) -> bool:
        """Wait for news, and take it in; whether there was any."""
        readable, _, _ = select.select(self._watched, [], [], seconds)
        for source in readable:
            data = os.read(source, CHUNK)
            if source == self._output:
                append(self.log, data)
            elif not data:
                self.told_to_stop = True
            if not data:
                self._watched.remove(source)
        return bool(readable)

    def _signal(self, number: int) -> bool:
        """Send a signal to the whole group; whether there still is one."""
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            return False
        return True


def _die_with_the_supervisor() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Run `[--cpus=0,1,...] [--log=FILE] COMMAND ...`; returns the command's exit status."""
    log = ""
    while arguments[0].startswith("--"):
        name, _, value = arguments.pop(0).partition("=")
        if name == "--cpus":
            os.sched_setaffinity(0, map(int, value.split(",")))
        else:
            log = value
    return Supervisor(arguments, log).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
