"""What a server answered, checked: after this, what reads it meets the types that SGLang documents."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from specreason_sgl.errors import ServerFailed

COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_WRONG = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, AssertionError)


def check_answer(url: str, one: Any, embedding: bool = False) -> None:
    """Check one answer to a request for a text, or an embedding, in place: half surrogates in the text become
    U+FFFD, counts that are null are left out.

    Raises:
        ServerFailed: it is not an answer of SGLang's.
    """
    with reading(url):
        meta = one["meta_info"]
        if embedding:
            values = one["embedding"] if isinstance(one["embedding"], list) else [one["embedding"]]
            _need(values and all(math.isfinite(value) for value in values))
        else:
            one["text"] = valid(one["text"])
        _need(isinstance(meta.get("finish_reason"), dict | None))
        for name in COUNTS:
            if meta.get(name, 0) is None:
                del meta[name]
            _need(type(meta.get(name, 0)) is int and meta.get(name, 0) >= 0)
        for entry in meta.get("output_token_logprobs") or ():
            logprob, _, text = entry
            _need(math.isfinite(logprob) and isinstance(text, str | None))


def valid(text: str) -> str:
    """A text with half surrogates, which cannot be encoded, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Within this an answer is taken apart: what is not where it should be is the server's fault.

    Raises:
        ServerFailed: a part is missing or of the wrong kind.
    """
    try:
        yield
    except _WRONG as error:
        why = f"{type(error).__name__}: {str(error)[:80]}"
        raise ServerFailed(f"{url} sent something that is not an answer of SGLang's ({why})") from None


def _need(fine: Any) -> None:
    if not fine:
        raise ValueError("a part is of the wrong kind")
