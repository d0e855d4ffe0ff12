"""docs/reference/parameters.md, made from the request models and the table of what they do not act on."""

import json

from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.completions import CompletionRequest
from specreason_sgl.serving.messages import IGNORED
from specreason_sgl.serving.parameters import EFFORTS, UNSUPPORTED, Unsupported
from specreason_sgl.serving.responses import ResponsesRequest

APIS = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
}


def parameters_page() -> str:
    """The text of the page."""
    names = sorted({*UNSUPPORTED, *(name for body in APIS.values() for name in body.model_fields)})
    efforts = ", ".join(f"`{name}` {share}/8" for name, share in EFFORTS.items())
    unread = ", ".join(f"`{name}`" for name in IGNORED)
    return f"""# Parameters of the API

`make docs-tables` writes this page from the declarations. A null is the same as no parameter. A parameter
that is refused gets a 400 that names it; `serve --ignore-unsupported` answers as if it were not there, with a
`Warning` header. Fields of a message that are accepted and not read:
{unread}.

`reasoning_effort` allows the thinking a share of the server's token budget:
{efforts}.
A `specreason.token_budget` goes before it. Of `max_tokens` the answer gets half, and what the thinking's
budget leaves of it.

{markdown_table(("parameter", *APIS, "about"), map(_cells, names))}
"""


def _cells(name: str) -> list[str]:
    fields = [body.model_fields.get(name) for body in APIS.values()]
    unsupported = UNSUPPORTED.get(name, Unsupported(()))
    about = next((field.description for field in fields if field and field.description), unsupported.why)
    return [f"`{name}`", *("supported" if field else _handled(unsupported) for field in fields), about]


def _handled(parameter: Unsupported) -> str:
    if parameter.harmless is None:
        return "ignored"
    values = " and ".join(f"`{json.dumps(value)}`" for value in parameter.harmless)
    return f"refused, except {values}" if values else "refused"
