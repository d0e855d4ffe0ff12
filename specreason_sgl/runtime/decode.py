"""Token-level speculative decoding on the base server (SpecReason+Decode): SGLang's flags for it.

The algorithms are those of the installed SGLang. What is known of single ones here is that of sglang 0.5.23.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.pairs import get_model
from specreason_sgl.runtime.sizes import Load, load_of, model_config
from specreason_sgl.runtime.weights import find

ALGORITHM = "--speculative-algorithm"
DRAFT_MODEL = "--speculative-draft-model-path"
PROPOSER = "speculative_draft_model_path"  # its name among parsed flags
NEED_DRAFT_MODEL = ("EAGLE3", "DFLASH")
# A chain of three tokens, SGLang's default for STANDALONE. Spelled out so that users can change one of the
# flags: SGLang refuses one without the others.
CHAIN = (
    "--speculative-num-steps",
    "3",
    "--speculative-eagle-topk",
    "1",
    "--speculative-num-draft-tokens",
    "4",
)


def check_decode(decode: str | None, flags: Mapping[str, Any]) -> None:
    """Refuse a decoding that cannot work, as far as that is known without the models.

    Args:
        decode: the name of an algorithm of SGLang, in any case, or None.
        flags: the user's flags for the base server, parsed.

    Raises:
        ConfigError: `decode` is unknown or does not run on this machine, or the flags contradict it.
    """
    if decode is None:
        return
    _check_name(decode)
    if machine.uses_cpu_platform():
        raise ConfigError(
            f"--decode {decode} needs a GPU, for Triton's kernels and sgl_kernel's operators: omit it, or "
            "use a machine with one"
        )
    if "speculative_algorithm" in flags:
        raise ConfigError(f"--decode {decode} and {ALGORITHM} in the base's flags exclude each other")
    if decode.upper() in NEED_DRAFT_MODEL and not flags.get(PROPOSER):
        raise ConfigError(
            f"--decode {decode} needs a draft head made for the base model: add {DRAFT_MODEL} FOLDER-OR-NAME "
            "to the base's flags"
        )


def decode_args(decode: str | None, draft_path: str, base_path: str, flags: Mapping[str, Any]) -> list[str]:
    """SGLang's flags for the base server; put them before the user's, which override them.

    Args:
        decode: as accepted by `check_decode`. With `standalone` the pair's draft model proposes tokens;
            other algorithms have SGLang's defaults, and the draft head that the user's flags name.
        draft_path, base_path: the models' folders.
        flags: the user's flags for the base server, parsed.

    Raises:
        ConfigError: `standalone` with two models of different vocabularies.
    """
    if decode is None:
        return []
    if decode.upper() == "STANDALONE":
        _need_same_vocabulary(Path(flags.get(PROPOSER) or draft_path), Path(base_path))
        return [ALGORITHM, "STANDALONE", DRAFT_MODEL, draft_path, *CHAIN]
    return [ALGORITHM, decode.upper()]


def with_proposer(decode: str | None, flags: Mapping[str, Any], draft: Load, base: Load) -> tuple[Load, Load]:
    """What the two servers load: the base's also the model that proposes its tokens, where that is known."""
    if name := flags.get(PROPOSER):
        folder = find(get_model(name))
        return draft, base + load_of(folder) if folder else base
    return draft, base + draft if (decode or "").upper() == "STANDALONE" else base


def _check_name(decode: str) -> None:
    from sglang.srt.plugins import load_plugins
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    load_plugins()  # which may register algorithms
    try:
        known = SpeculativeAlgorithm.from_string(decode).is_some()
    except ValueError:
        known = False
    if not known:
        names = (name.lower() for name in SpeculativeAlgorithm.__members__ if name != "NONE")
        raise ConfigError(f"--decode must be one of SGLang's {', '.join(names)}, got {decode!r}")


def _need_same_vocabulary(draft: Path, base: Path) -> None:
    # SGLang's StandaloneWorkerV2 checks this too, but only after loading the weights of both models.
    need = "--decode standalone needs a draft with the base's vocabulary"
    draft_size, base_size = (model_config(folder).get("vocab_size") for folder in (draft, base))
    if draft_size and base_size and draft_size != base_size:
        raise ConfigError(f"{need}: {draft.name} has {draft_size} tokens, {base.name} {base_size}")
    draft_tokens, base_tokens = _tokens(draft), _tokens(base)
    if any(base_tokens.get(number, token) != token for number, token in draft_tokens.items()):
        raise ConfigError(f"{need}: {draft.name} and {base.name} number their tokens differently")


def _tokens(folder: Path) -> dict[int, str]:
    """A tokenizer's tokens by id, as far as tokenizer.json lists them; SGLang compares the rest."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
        return tokens | {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
    except (OSError, ValueError, KeyError, AttributeError):  # no such file, or a Unigram list of scores
        return {}
