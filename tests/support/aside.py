"""Run a command on the processor time that others leave.

    python -m tests.support.aside COMMAND

Where Linux schedules each session as a group (autogroup), `nice` alone does nothing between sessions, and
each SGLang server is a session.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

NICENESS = "10"  # a tenth of a share: with less, a test may stand still for seconds


def main() -> int:
    process = subprocess.Popen(sys.argv[1:], start_new_session=True)
    with contextlib.suppress(OSError):  # there are no such groups
        Path(f"/proc/{process.pid}/autogroup").write_text(NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.killpg(process.pid, number))
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
