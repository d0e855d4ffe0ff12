"""The tokenizer and the chat template that a server uses itself.

Prompts are sent as token ids, so both have to be the server's, to the token. Written against sglang 0.5.23.
"""

import logging
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError, ServerError
from specreason_sgl.lang.http import Http

# White space of several kinds, digits, code and characters of two to four bytes: what tokenizers differ in.
PROBE = " Sum:\n\n  def f(x):\n\treturn x * 12345  # é 好 🙂\n\nThen 6,789.5 \n"
MODES = ("auto", "slow")
log = logging.getLogger(__name__)


def load_tokenizer(
    name: str | None,
    model_info: dict[str, Any],
    server_info: dict[str, Any],
    url: str,
    trust_remote_code: bool = False,
):
    """Load a tokenizer with the server's own function, which mends some that `AutoTokenizer` loads wrongly.

    Args:
        name: a folder or a Hugging Face name; None for what the server reports.
        model_info: what the server reports at `/model_info`.
        server_info: what it reports at `/server_info`; may be empty.
        url: the server's, for errors.
        trust_remote_code: whether code that comes with the tokenizer may run here. That the server runs it is
            no reason to: a URL would then be enough to run code on this machine.

    Raises:
        ConfigError: it cannot be loaded, or is not a fast tokenizer.
    """
    from sglang.srt.utils.hf_transformers_utils import get_tokenizer  # 0.2 s after `import sglang`

    settings: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if server_info.get("tokenizer_mode") in MODES:
        settings["tokenizer_mode"] = server_info["tokenizer_mode"]
    if name is None:
        name = model_info.get("tokenizer_path") or model_info["model_path"]
        if not isinstance(name, str) or not name:
            raise ConfigError(f"the server {url} must name its model, got {name!r}; pass tokenizer=")
        if isinstance(server_info.get("revision"), str):
            settings["revision"] = server_info["revision"]
    try:
        tokenizer = get_tokenizer(name, **settings)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"the tokenizer {name!r} of the server {url} cannot be loaded ({_first_line(error)}); "
            "pass a folder or a Hugging Face name as tokenizer"
        ) from None
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ConfigError(
            f"the tokenizer {name!r} of the server {url} must be a fast one (with a tokenizer.json), "
            f"got {type(tokenizer).__name__}"
        )
    return tokenizer


def read_chat_template(server_info: dict[str, Any], url: str) -> str | None:
    """The Jinja text of the server's `--chat-template`; None where it has none, or none that can be used."""
    setting = server_info.get("chat_template")
    if not setting or not isinstance(setting, str):
        return None
    if "{{" in setting or "{%" in setting:
        return setting
    if setting.endswith(".jinja"):  # no other file is read: what is rendered is sent to the server
        try:
            text = Path(setting).read_text(encoding="utf-8")
            return text.strip("\n").replace("\\n", "\n")  # as SGLang reads it
        except (OSError, ValueError):
            pass
    log.warning(
        "%s was started with --chat-template %s, which is not a Jinja template that can be read here; "
        "the tokenizer's own chat template is used",
        url,
        setting[:200],
    )
    return None


def check_tokenizer(tokenizer, http: Http) -> None:
    """Compare a tokenizer with the server's own, where the server says how it encodes a text. A router and
    older servers do not.

    Raises:
        ConfigError: they differ.
    """
    try:
        answer = http.json("POST", "/tokenize", {"prompt": PROBE})
    except ServerError:
        return
    ids = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        return
    if ids != tokenizer.encode(PROBE):
        raise ConfigError(
            f"the tokenizer {tokenizer.name_or_path!r} must encode text as the server {http.url} does, "
            "got other token ids; pass the folder or the Hugging Face name of the server's tokenizer as "
            "tokenizer="
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
