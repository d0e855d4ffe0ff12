"""Waiting for what other threads and processes do, and not waiting before a request is sent again."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

from sglang.lang.interpreter import ProgramState

from specreason_sgl.lang import requests


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll a condition; fails when it does not hold within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        threading.Event().wait(0.01)


def ended(state: ProgramState) -> ProgramState:
    """Wait for the end of a program that streams. It runs in a thread of its own: asked before it has begun,
    SGLang (0.5.23) says that there is no such variable."""
    wait_until(lambda: state.stream_executor.is_finished)
    return state


@contextlib.contextmanager
def quick_retries() -> Iterator[None]:
    """Send requests again almost without a pause."""
    with patch.object(requests, "FIRST_WAIT", 0.001):
        yield
