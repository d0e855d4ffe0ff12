"""Token-level speculative decoding on the base server (SpecReason+Decode): SGLang's flags for it.

Flags and limits are those of sglang 0.5.23.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.flags import flag_value
from specreason_sgl.runtime.placement import model_config

ALGORITHM = ("--speculative-algorithm",)
DRAFT_MODEL = ("--speculative-draft-model-path", "--speculative-draft-model")
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
_NOT_ON_THE_CPU = {
    "standalone": "Triton kernels with a GPU driver",
    "eagle3": "Triton kernels with a GPU driver",
    "ngram": "sgl_kernel's operators",
}
DECODINGS = tuple(_NOT_ON_THE_CPU)


def check_decode(decode: str | None, base_args: Sequence[str]) -> None:
    """Refuse a decoding that cannot work, as far as that is known without the models.

    Raises:
        ConfigError: `decode` is unknown or does not run on this machine, or the flags contradict it.
    """
    if decode is None:
        return
    if decode not in DECODINGS:
        raise ConfigError(f"--decode must be one of {', '.join(DECODINGS)}, got {decode!r}")
    if machine.uses_cpu_platform():
        raise ConfigError(
            f"--decode {decode} needs {_NOT_ON_THE_CPU[decode]}, which this CPU platform does not have: "
            "omit it, or use a machine with a GPU"
        )
    if flag_value(base_args, ALGORITHM) is not None:
        raise ConfigError(f"--decode {decode} and {ALGORITHM[0]} in the base's flags exclude each other")
    if decode == "eagle3" and not flag_value(base_args, DRAFT_MODEL):
        raise ConfigError(
            "--decode eagle3 needs a draft head made for the base model: add "
            f"{DRAFT_MODEL[0]} FOLDER-OR-NAME to the base's flags"
        )


def decode_args(decode: str | None, draft_path: str, base_path: str, base_args: Sequence[str]) -> list[str]:
    """SGLang's flags for the base server; put them before the user's, which override them.

    Args:
        decode: as accepted by `check_decode`: `standalone` (the pair's draft model proposes tokens), `eagle3`
            (a draft head, named by `--speculative-draft-model-path` in `base_args`), `ngram` (earlier text),
            or None.
        draft_path, base_path: the models' folders.
        base_args: the user's flags for the base server.

    Raises:
        ConfigError: `standalone` with two models of different vocabularies.
    """
    if decode is None:
        return []
    if decode == "standalone":
        _need_same_vocabulary(Path(flag_value(base_args, DRAFT_MODEL) or draft_path), Path(base_path))
        return [*ALGORITHM, "STANDALONE", DRAFT_MODEL[0], draft_path, *CHAIN]
    return [*ALGORITHM, decode.upper()]  # SGLang chooses the numbers of draft tokens


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
