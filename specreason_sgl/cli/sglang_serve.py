"""`sglang serve --model-type specreason ...`: this package's server, started by SGLang's own command.

Registered under SGLang's entry point group `sglang.serve_backends`. It takes the options of `specreason-sgl
serve`; a model named SGLang's way is the base model:

    sglang serve --model-type specreason --pair mini
    sglang serve Qwen/Qwen3-32B --model-type specreason --draft Qwen/Qwen3-1.7B
"""

import sys
from collections.abc import Sequence

from sglang.cli.serve_backends import SERVE_BACKEND_API_VERSION, ServeBackend, ServeRequest

from specreason_sgl.cli.program import main
from specreason_sgl.errors import ConfigError

MODEL_FLAGS = ("--model-path", "--model")


def create() -> ServeBackend:
    """SGLang's hook. The backend is chosen by name only, never by the model."""
    return ServeBackend(api_version=SERVE_BACKEND_API_VERSION, run=run, requires_model_path=False)


def run(request: ServeRequest) -> None:
    """Run `specreason-sgl serve`; returns at its end or after its help, exits with its code if it fails."""
    try:
        main(["serve", *arguments(request.argv)])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code:  # else return to SGLang, whose help has an epilogue
            raise


def arguments(argv: Sequence[str]) -> list[str]:
    """An `sglang serve` command line as options of `specreason-sgl serve`.

    Raises:
        ConfigError: it names two base models.
    """
    options = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        options.append("--base" + equals + value if name in MODEL_FLAGS else arg)
    if sum(option.partition("=")[0] == "--base" for option in options) > 1:
        raise ConfigError("the base model is named twice: give the model or --base, not both")
    return options
