"""The exceptions of the package.

Every error that a user can cause or meet is a `SpecReasonError`. Its message is one line: what is wrong, with
which server or file, and what to do. `exit_code` is the command line's exit status: 2 for wrong input, 1 if a
runtime failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


class SpecReasonError(Exception):
    """Base class of the package's errors.

    Attributes:
        exit_code: exit status of the command line.
        trace: the trace so far, if the error ended a run; `solve(..., resume=trace)` continues the run.
    """

    exit_code = 2
    trace: Any = None


class ConfigError(SpecReasonError):
    """A setting, a question or a name is invalid.

    Attributes:
        knobs: the settings that the message is about, by their names in Python.
    """

    def __init__(self, message: str, *knobs: str):
        super().__init__(message)
        self.knobs = knobs

    def reworded(self, name_of: Callable[[str], str]) -> str:
        """The message with other names for the settings, such as `--token-budget`."""
        message, got, value = str(self).partition(", got ")
        for knob in self.knobs:
            message = re.sub(rf"\b{knob}\b", name_of(knob), message)
        return message + got + value


class NotInstalled(SpecReasonError, ImportError):
    """A package that this one depends on is missing, as where only the reader of traces is installed."""

    exit_code = 1


class VerifierError(SpecReasonError):
    """A verifier raised an exception, or did not return a judgement."""

    exit_code = 1


class TemplateError(SpecReasonError):
    """A model's chat template is missing, or refuses the conversation."""


class WeightsError(SpecReasonError):
    """A model's weights are unavailable, do not match their checksum, or do not fit on the disk."""


class LaunchError(SpecReasonError):
    """A server could not be started: its port is in use, memory is short, or it died. Names its log file."""

    exit_code = 1


class WorkerDied(SpecReasonError):
    """The process that solved a problem died, for example by a lack of memory."""

    exit_code = 1


class ServerError(SpecReasonError):
    """A server answered with an error or with an invalid response."""

    exit_code = 1


class ServerUnreachable(ServerError):
    """Nothing answers at the address, or the connection broke."""


class ServerBusy(ServerError):
    """A server is overloaded or not ready yet (status 429, 502, 503 or 504)."""


class ServerFailed(ServerError):
    """A server failed to answer (status 500), aborted a request unasked, or sent an invalid response."""


class NotSGLang(ServerError):
    """The server at the address is not an SGLang server."""


class Unauthorized(ServerError):
    """The server rejects the API key."""


class DeadlineExceeded(ServerError):
    """The deadline of a call or of a whole run has passed."""


class RequestAborted(ServerError):
    """A request was aborted before it was finished.

    Attributes:
        meta_info: the server's information on it, with the `completion_tokens` so far; empty if the server
            had not started it.
    """

    def __init__(self, message: str, meta_info: dict[str, Any] | None = None):
        super().__init__(message)
        self.meta_info = meta_info or {}


class ContextLengthExceeded(ServerError):
    """The prompt does not fit in the model's context."""

    exit_code = 2
