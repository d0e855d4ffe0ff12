"""Checks what a server answered; code that runs after them can rely on the types that SGLang documents."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from specreason_sgl.errors import ServerFailed

COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
USAGE = (*COUNTS, "sent_at", "seconds")
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, AssertionError)


def check_answer(url: str, answer: Any, embedding: bool = False) -> None:
    """Check the answer to one prompt, in place: half surrogates in its text become U+FFFD, and counts that
    are null are dropped.

    Args:
        url: the server's, for errors.
        answer: what the server sent, parsed.
        embedding: whether the answer should hold an embedding; otherwise a text.

    Raises:
        ServerFailed: it is not an answer of SGLang's.
    """
    with reading(url):
        meta = answer["meta_info"]
        if embedding:
            _check(embedding_of(answer) and all(math.isfinite(value) for value in embedding_of(answer)))
        else:
            answer["text"] = valid(answer["text"])
        _check(isinstance(meta.get("finish_reason"), dict | None))
        for name in COUNTS:
            if meta.get(name, 0) is None:
                del meta[name]
            _check(type(meta.get(name, 0)) is int and meta.get(name, 0) >= 0)
        for logprob, _, text in meta.get("output_token_logprobs") or ():
            _check(math.isfinite(logprob) and isinstance(text, str | None))


def embedding_of(answer: dict[str, Any]) -> list[float]:
    """The values of an answer of /classify; SGLang sends a single value as a bare number."""
    values = answer["embedding"]
    return values if isinstance(values, list) else [values]


def each(answer: Any) -> list:
    """The answers to each prompt, of a request for one or several."""
    return answer if isinstance(answer, list) else [answer]


def usage(meta: dict[str, Any]) -> dict[str, Any]:
    """A request's token counts and times, of all that its `meta_info` holds."""
    return {name: meta[name] for name in USAGE if name in meta}


def valid(text: str) -> str:
    """A text with half surrogates, which cannot be encoded, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(text: str) -> str:
    """A server's message, fit for a line of an error."""
    return " ".join(valid(text).split())


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Take an answer apart: inside, a part that is missing or of the wrong type is the server's failure.

    Raises:
        ServerFailed: a part is missing or of the wrong type.
    """
    try:
        yield
    except MALFORMED as error:
        why = f"{type(error).__name__}: {str(error)[:80]}"
        raise ServerFailed(f"{url} sent something that is not an answer of SGLang's ({why})") from None


def _check(fine: Any) -> None:
    if not fine:
        raise ValueError("a part is of the wrong type")
