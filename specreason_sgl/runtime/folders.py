"""The folder of a Hugging Face model, as SGLang reads it."""

import json
from pathlib import Path

from specreason_sgl.errors import WeightsError

INDEX = "model.safetensors.index.json"
CONSOLIDATED = "consolidated*.safetensors"  # the same weights again, in Mistral's own format


def checked(folder: Path) -> Path:
    """The folder, if SGLang can serve it as far as the names of its files tell.

    Raises:
        WeightsError: it is not a model's folder, or incomplete, or cannot be read.
    """
    try:
        if not (folder / "config.json").is_file():
            raise WeightsError(f"{folder} has no config.json: it is not the folder of a Hugging Face model")
        if missing := missing_file(folder):
            raise WeightsError(f"{folder} is incomplete: its index names {missing}, which is not there")
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read ({error.strerror})") from None
    return folder


def missing_file(folder: Path) -> str:
    """A weight file that a folder's index names and the folder lacks; empty if it is complete."""
    return next((path.name for path in weight_files(folder) if not path.exists()), "")


def weights_bytes(folder: Path) -> int:
    """Size of a model's weight files, in bytes; of those that are there, if some are missing."""
    return sum(path.stat().st_size for path in weight_files(folder) if path.exists())


def weight_files(folder: Path) -> list[Path]:
    """The files that SGLang loads a model from: those of the index, else every *.safetensors.

    Mistral's repositories hold the weights twice: `consolidated.safetensors` counts where it is alone.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        return sorted({folder / name for name in index["weight_map"].values()})
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{folder / INDEX} must be an index of weights, and is not") from None
    shards = sorted(folder.glob("*.safetensors"))
    return [path for path in shards if not path.match(CONSOLIDATED)] or shards
