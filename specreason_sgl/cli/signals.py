"""Signals that end a command: the first one as an exception, which cleans up, the next one at once."""

import os
import signal
from types import FrameType


def end_on(*numbers: int) -> None:
    """Let these signals end the command, with 128 and the signal's number as its status.

    Whatever it then waits for, a second signal ends it. The runtimes that it started end, too: their
    supervisors see that it has gone.
    """

    def end(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, _end_at_once)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, end)


def _end_at_once(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
