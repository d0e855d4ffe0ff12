"""A client of a running `serve`, which shows the steps as they come."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from specreason_sgl.errors import (
    ConfigError,
    DeadlineExceeded,
    ServerError,
    ServerUnreachable,
    SpecReasonError,
    Unauthorized,
)
from specreason_sgl.reasoning.config import Message
from specreason_sgl.reasoning.live import OnDraft, OnText
from specreason_sgl.reasoning.trace import Step, Trace
from specreason_sgl.serving.parameters import OPENAI_NAMES, SAMPLING


def ask(
    url: str,
    messages: Sequence[Message],
    given: Mapping[str, Any],
    api_key: str = "",
    *,
    timeout: float = 600.0,
    on_step: Callable[[Step], None] | None = None,
    on_text: OnText | None = None,
    on_draft: OnDraft | None = None,
) -> Trace:
    """Ask a server of this package to continue a conversation.

    Args:
        url: the server's, with or without `/v1`.
        messages: the conversation; the server adds its instruction.
        given: the knobs that the server's own settings give way to; as in `reasoning.plain`.
        timeout: seconds between two parts of the answer.
        on_step, on_text, on_draft: as of `solve`.

    Raises:
        ServerUnreachable: nobody answers there; `Unauthorized`: it needs another API key; `ConfigError`: it
            refuses the request; `DeadlineExceeded`; `ServerError`: it failed.
    """
    import openai

    base_url = url.rstrip("/").removesuffix("/v1") + "/v1"
    parameters = _parameters(given, trace=True, drafts=on_draft is not None)
    trace, open_step = None, None
    try:
        client = openai.OpenAI(base_url=base_url, api_key=api_key or "none", timeout=timeout, max_retries=0)
        with client:
            model = client.models.list().data[0].id
            for chunk in client.chat.completions.create(
                model=model, messages=list(messages), stream=True, extra_body=parameters
            ):
                event = (chunk.model_extra or {}).get("specreason") or {}
                if on_step and "step" in event:
                    on_step(msgspec.convert(event["step"], Step))
                if on_draft and "draft" in event:
                    if "open_step" in event:
                        open_step = msgspec.convert(event["open_step"], Step | None)
                    on_draft(event["draft"], open_step)
                for choice in chunk.choices:
                    if on_text and choice.delta.content:
                        on_text("answer", choice.delta.content)
                if "trace" in event:
                    trace = msgspec.convert(event["trace"], Trace)
    except openai.OpenAIError as error:
        raise _error(error, url) from None
    if trace is None:
        raise ServerError(f"{url} sent an answer without a trace: it must be a server of specreason-sgl")
    return trace


def _parameters(given: Mapping[str, Any], **extension: Any) -> dict[str, Any]:
    """The knobs as OpenAI's parameters, and the others as this package's extension of them."""
    parameters: dict[str, Any] = {"specreason": extension}
    for name, value in given.items():
        is_openais = name in SAMPLING or name in OPENAI_NAMES
        (parameters if is_openais else extension)[OPENAI_NAMES.get(name, name)] = value
    return parameters


def _error(error: Exception, url: str) -> SpecReasonError:
    import openai

    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    match error:
        case openai.APITimeoutError():
            return DeadlineExceeded(f"{url} did not answer in time")
        case openai.APIConnectionError():
            return ServerUnreachable(f"nobody answers at {url}")
        case openai.AuthenticationError():
            return Unauthorized(f"{url} needs another API key: --api-key")
        case openai.BadRequestError():
            return ConfigError(f"{url} refuses the request: {message or error}")
    return ServerError(f"{url} failed: {message or error}")
