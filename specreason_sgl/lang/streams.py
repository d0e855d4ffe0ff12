"""Streaming a generation, and continuing it after the server broke off in the middle."""

from collections.abc import Callable, Iterator
from typing import Any

from sglang.lang.ir import SglSamplingParams

from specreason_sgl.errors import ServerFailed
from specreason_sgl.lang.requests import RETRIED, Request, Requests
from specreason_sgl.lang.stops import settled

Piece = tuple[str, dict[str, Any]]  # text, and the answer's `meta_info` so far


def stream_pieces(
    requests: Requests, sid: str, make_payload: Callable[[int], dict[str, Any]], sampling: SglSamplingParams
) -> Iterator[Piece]:
    """Pieces of text as the model writes them, each with the meta information so far.

    Where the server goes away in the middle, the rest is generated after what has come; the interpreter has
    put that into the state's text by then.

    Args:
        requests: where to send.
        sid: the state's id.
        make_payload: the payload for the state's text as it is now, less so many tokens that have come.
        sampling: what the program asked for.

    Raises:
        ServerError: the generation failed.
    """
    received = 0  # tokens, of earlier attempts
    with Request(requests, sid) as request:
        while True:
            payload = {**make_payload(received), "stream": True}
            shown, tokens, finished = 0, 0, None
            try:
                for answer in _answers(requests, request, payload):
                    meta = answer["meta_info"]
                    tokens, finished = meta.get("completion_tokens", 0), meta.get("finish_reason")
                    meta["completion_tokens"] = received + tokens
                    text = answer["text"] if finished else settled(answer["text"], sampling.stop)
                    yield text[shown:], meta
                    shown = max(shown, len(text))
                request.close()  # a connection with unread bytes cannot be used again
                return
            except RETRIED as error:
                if finished:
                    return
                constrained = sampling.regex or sampling.json_schema
                if constrained and shown and not request.aborted.is_set():
                    raise  # the constraint would begin anew after what has come
                request.wait_to_retry(error)
            received += tokens
            if received >= sampling.max_new_tokens:
                return  # it broke off after the last token


def _answers(requests: Requests, request: Request, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The checked events of one attempt, each with the text so far."""
    http, response = requests.http, request.send(payload)
    if response.status != 200:
        http.check(response.status, response.read())
    answered = False
    for event in response.events():
        answer = request.check(http.parse(200, event))
        request.made_progress()
        answer["meta_info"].update(request.times())
        answered = True
        yield answer
    if not answered:
        raise ServerFailed(f"{http.url} sent a stream with no answer in it")
