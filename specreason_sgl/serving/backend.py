"""`sglang serve --model-type specreason ...`: this package's server, by SGLang's own command.

Registered under SGLang's entry point group `sglang.serve_backends`. What follows are the options of
`specreason-sgl serve`; a model that is named SGLang's way is the base model:

    sglang serve --model-type specreason --pair mini
    sglang serve Qwen/Qwen3-32B --model-type specreason --draft Qwen/Qwen3-1.7B
"""

import sys
from collections.abc import Sequence

from sglang.cli.serve_backends import SERVE_BACKEND_API_VERSION, ServeBackend, ServeRequest

from specreason_sgl.errors import ConfigError

MODEL_FLAGS = ("--model-path", "--model")


def create() -> ServeBackend:
    """SGLang's hook. It must be asked for by name: no model is by itself one for speculative reasoning."""
    return ServeBackend(api_version=SERVE_BACKEND_API_VERSION, run=run, requires_model_path=False)


def run(request: ServeRequest) -> None:
    """Run `specreason-sgl serve`; returns after its end, or its help, and exits with its code if it fails."""
    from specreason_sgl import cli

    try:
        cli.main(["serve", *arguments(request.argv)])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code:  # else it is SGLang's turn: its help has an epilogue
            raise


def arguments(argv: Sequence[str]) -> list[str]:
    """The options of `specreason-sgl serve` that an `sglang serve` command line means.

    Raises:
        ConfigError: it names two base models.
    """
    found = []
    for one in argv:
        name, equals, value = one.partition("=")
        found.append("--base" + equals + value if name in MODEL_FLAGS else one)
    if sum(one.partition("=")[0] == "--base" for one in found) > 1:
        raise ConfigError("the base model is named twice: give the model or --base, not both")
    return found
