"""What can go wrong, as one family of exceptions.

Every error that a user can cause or meet is a `SpecReasonError`. Its text is one line that says what was
wrong, with which server or file, and what to do. `exit_code` is what the command line exits with: 2 where
the input was wrong, 1 where a runtime failed.
"""

import re
from collections.abc import Callable
from typing import Any


class SpecReasonError(Exception):
    """Base of all errors of this package.

    Attributes:
        trace: of a run of `solve` that it ended, the `Trace` so far; `solve(..., resume=trace)` goes on.
    """

    exit_code = 2
    trace = None


class ConfigError(SpecReasonError):
    """A setting, a question or a name is not valid.

    Attributes:
        knobs: the settings that the message is about, by their names in Python.
    """

    def __init__(self, message: str, *knobs: str):
        super().__init__(message)
        self.knobs = knobs

    def reworded(self, name_of: Callable[[str], str]) -> str:
        """The message with the settings' names as they are where the value was given: `--token-budget`."""
        message, got, value = str(self).partition(", got ")
        for knob in self.knobs:
            message = re.sub(rf"\b{knob}\b", name_of(knob), message)
        return message + got + value


class VerifierError(SpecReasonError):
    """A verifier raised an exception, or returned what is no judgement."""

    exit_code = 1


class TemplateError(SpecReasonError):
    """A model's chat template is missing, or refuses the conversation."""


class WeightsError(SpecReasonError):
    """A model's weights cannot be had, do not match their checksum, or do not fit on the disk."""


class LaunchError(SpecReasonError):
    """A server could not be started: a port taken, too little memory, or it died. Names its log file."""

    exit_code = 1


class ServerError(SpecReasonError):
    """A server answered with an error, or with something that is not an answer."""

    exit_code = 1


class ServerUnreachable(ServerError):
    """Nobody answers at the address, or the connection broke."""


class ServerBusy(ServerError):
    """A server has too much to do, or is not ready yet (status 429, 502, 503 or 504)."""


class ServerFailed(ServerError):
    """A server failed at a request (status 500), aborted it unasked, or sent what is not an answer."""


class NotSGLang(ServerError):
    """Something answers at the address, but it is not an SGLang server."""


class Unauthorized(ServerError):
    """The server wants another API key."""


class DeadlineExceeded(ServerError):
    """The time given to a call, or to a whole run, is over."""


class RequestAborted(ServerError):
    """A request was ended on the server before it was done.

    Attributes:
        meta_info: what the server said of it, with the `completion_tokens` so far; empty if it was not begun.
    """

    def __init__(self, message: str, meta_info: dict[str, Any] | None = None):
        super().__init__(message)
        self.meta_info = meta_info or {}


class ContextLengthExceeded(ServerError):
    """The prompt does not fit into the model's context."""

    exit_code = 2
