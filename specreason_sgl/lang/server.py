"""What a server says of itself: its model, its settings and the length of its context."""

from typing import Any, Protocol

from specreason_sgl.errors import (
    DeadlineExceeded,
    NotSGLang,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    Unauthorized,
)
from specreason_sgl.lang.http import Http

MODEL_INFO = ("/model_info", "/get_model_info")  # sglang-router (0.3.2) has the second only


class Running(Protocol):
    """A server that knows its address and key, such as one of `launch_pair`."""

    url: str
    api_key: str | None


def read_model_info(http: Http) -> dict[str, Any]:
    """What the server, or the router in front of it, reports of its model.

    Raises:
        NotSGLang: it is not an SGLang server.
        ServerError: it cannot be reached, or refuses the API key.
    """
    for path in MODEL_INFO:
        try:
            info = http.json("GET", path)
        except (ServerUnreachable, ServerBusy, Unauthorized, DeadlineExceeded):
            raise
        except ServerError:
            continue
        if isinstance(info, dict) and "model_path" in info:
            return info
    raise NotSGLang(f"{http.url} is not an SGLang server: its /model_info names no model")


def read_server_info(http: Http) -> dict[str, Any]:
    """What the server reports at `/server_info`; empty where it reports nothing, as a router does."""
    try:
        info = http.json("GET", "/server_info")
    except ServerError:
        return {}
    return info if isinstance(info, dict) else {}


def get_context_length(server_info: dict[str, Any]) -> int | None:
    """Tokens of a prompt and what is generated on it; None where the server does not say."""
    # The scheduler's own limit of a prompt (0.5.23) also accounts for memory, and leaves 5 tokens for what is
    # generated.
    for name, reserve in (("max_req_input_len", 0), ("context_length", 6)):
        if type(server_info.get(name)) is int and server_info[name] > reserve:
            return server_info[name] - reserve
    return None
