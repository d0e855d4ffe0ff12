"""Token-level speculative decoding on the base server, which goes well with speculative reasoning.

Flags and limits are those of sglang 0.5.23.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.placement import model_config

ALGORITHM = ("--speculative-algorithm",)
DRAFT_MODEL = ("--speculative-draft-model-path", "--speculative-draft-model")
# A chain of three tokens, SGLang's own choice for STANDALONE. Spelled out, so that a user's flags can change
# one of them: without the others SGLang refuses it.
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
    """Refuse what cannot work, as far as it can be told without the models.

    Raises:
        ConfigError: there is no such way to decode, it does not run here, or the flags contradict it.
    """
    if decode is None:
        return
    if decode not in DECODINGS:
        raise ConfigError(f"--decode takes one of {', '.join(DECODINGS)}, not {decode!r}")
    if machine.uses_cpu_platform():
        raise ConfigError(
            f"--decode {decode} needs {_NOT_ON_THE_CPU[decode]}, which this CPU platform does not have: "
            "leave it out, or use a machine with a GPU"
        )
    if flag_value(base_args, ALGORITHM) is not None:
        raise ConfigError(f"--decode {decode} and {ALGORITHM[0]} among the base's flags: give one of them")
    if decode == "eagle3" and not flag_value(base_args, DRAFT_MODEL):
        raise ConfigError(
            "--decode eagle3 needs a draft head made for the base model: add "
            f"{DRAFT_MODEL[0]} FOLDER-OR-NAME to the base's flags"
        )


def decode_args(decode: str | None, draft_path: str, base_path: str, base_args: Sequence[str]) -> list[str]:
    """SGLang's flags for the base server; they stand before the user's, which win.

    Args:
        decode: `standalone` (the pair's draft proposes tokens, too), `eagle3` (a draft head, named by
            `--speculative-draft-model-path` among `base_args`), `ngram` (text seen before), or None.
        draft_path, base_path: the models' folders.
        base_args: the user's flags for the base server.

    Raises:
        ConfigError: as `check_decode`, or `standalone` with two models of different vocabularies.
    """
    check_decode(decode, base_args)
    if decode is None:
        return []
    if decode == "standalone":
        _need_same_vocabulary(Path(flag_value(base_args, DRAFT_MODEL) or draft_path), Path(base_path))
        return [*ALGORITHM, "STANDALONE", DRAFT_MODEL[0], draft_path, *CHAIN]
    return [*ALGORITHM, decode.upper()]  # SGLang chooses their numbers, EAGLE3's by the model


def flag_value(args: Sequence[str], names: Sequence[str]) -> str | None:
    """The last value of a flag (`--name value` or `--name=value`), None where it is not given."""
    found = None
    for i, one in enumerate(args):
        name, equals, value = one.partition("=")
        if name in names:
            found = value if equals else args[i + 1] if i + 1 < len(args) else ""
    return found


def _need_same_vocabulary(draft: Path, base: Path) -> None:
    # SGLang's StandaloneWorkerV2 refuses both, too, but after it has loaded the weights of both models.
    why = "--decode standalone needs a draft with the base's vocabulary"
    draft_size, base_size = (model_config(folder).get("vocab_size") for folder in (draft, base))
    if draft_size and base_size and draft_size != base_size:
        raise ConfigError(f"{why}: {draft.name} has {draft_size} tokens, {base.name} {base_size}")
    draft_tokens, base_tokens = _tokens(draft), _tokens(base)
    if any(base_tokens.get(number, token) != token for number, token in draft_tokens.items()):
        raise ConfigError(f"{why}: {draft.name} and {base.name} number their tokens differently")


def _tokens(folder: Path) -> dict[int, str]:
    """A tokenizer's tokens by number, as far as tokenizer.json tells; for the rest SGLang compares."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
        return tokens | {one["id"]: one["content"] for one in tokenizer.get("added_tokens", [])}
    except (OSError, ValueError, KeyError, AttributeError):  # no such file, or a list of scores: Unigram
        return {}
