"""Refusals and failures in OpenAI's error format."""

import json

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from specreason_sgl.errors import (
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    RequestAborted,
    ServerBusy,
    ServerUnreachable,
    SpecReasonError,
    TemplateError,
)
from specreason_sgl.serving.parameters import EXTENSION_KNOBS, parameter

RETRY_AFTER = "5"  # seconds


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error format."""

    error: ErrorBody


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}

    def response(self) -> Response:
        # ASCII only: the message may quote text that is not valid Unicode.
        return Response(json.dumps(self.body), self.status, self.headers, "application/json")


def api_error(error: SpecReasonError, param: str | None = None) -> ApiError:
    """The API's error for one of this package's.

    Args:
        param: the parameter at fault if the error names no setting.
    """
    if isinstance(error, ContextLengthExceeded):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, ConfigError):
        return ApiError(400, error.reworded(parameter), param=next(map(parameter, error.knobs), param))
    if isinstance(error, TemplateError):
        return ApiError(400, str(error))
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, str(error), "timeout_error")
    status = 503 if isinstance(error, ServerUnreachable | ServerBusy | RequestAborted) else 502
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
    return ApiError(status, str(error), "server_error", headers=headers)


def invalid(error: RequestValidationError) -> ApiError:
    """The API's error for a body that does not fit `ChatRequest`: the first thing wrong, and where."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    if path[:1] == ["specreason"] and len(path) > 1 and path[1] in EXTENSION_KNOBS:
        return api_error(EXTENSION_KNOBS[path[1]].error(first["input"]))
    where = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, f"the parameter {where} is not supported", param=where, code="unsupported_parameter"
        )
    return ApiError(400, f"{where or 'the body'}: {first['msg']}", param=where)


def unsupported(parameters: dict[str, str]) -> ApiError:
    """The error for parameters that are not supported, by name with the reason."""
    name, why = next(iter(parameters.items()))
    message = f"the parameter {name} is not supported" + (f": {why}" if why else "")
    return ApiError(400, message, param=name, code="unsupported_parameter")


def unknown_model(name: str, known: list[str]) -> ApiError:
    return ApiError(
        404,
        f"there is no model {name!r}; there are {', '.join(known)}",
        param="model",
        code="model_not_found",
    )


def queue_full() -> ApiError:
    return ApiError(
        429,
        "the server is busy: its queue is full; try again later",
        "rate_limit_error",
        code="queue_full",
        headers={"Retry-After": RETRY_AFTER},
    )
