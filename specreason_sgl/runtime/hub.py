"""Models of a model hub (Hugging Face), in its own cache."""

from pathlib import Path

from specreason_sgl.errors import WeightsError
from specreason_sgl.runtime.folders import CONSOLIDATED, missing_file, weight_files

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]


def is_reachable() -> bool:
    """Whether a model hub answers, within a few seconds."""
    import urllib3
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=3, read=5)) as pool:
            return pool.request("HEAD", constants.ENDPOINT).status < 500
    except urllib3.exceptions.HTTPError:
        return False


def snapshot(repo: str, local_only: bool = False) -> Path | None:
    """The model's folder in the model hub's cache; without `local_only`, fetched or completed first.

    Raises:
        WeightsError: it is unavailable, or has no weights that SGLang can serve.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = _download(repo, local_only, CONSOLIDATED)
        if not local_only and not weight_files(folder):
            folder = _download(repo, local_only, None)
    except HFValidationError:
        raise WeightsError(
            f"{repo!r} is neither a folder nor the name of a model on Hugging Face (owner/name)"
        ) from None
    except LocalEntryNotFoundError as error:
        if local_only:
            return None
        raise WeightsError(f"{repo}: the model hub cannot be reached ({_first_line(error)})") from None
    except (HfHubHTTPError, OSError) as error:
        reason = _first_line(error)
        raise WeightsError(f"{repo} cannot be fetched from the model hub: {reason}") from None
    missing = "*.safetensors" if not weight_files(folder) else missing_file(folder)
    if not missing:
        return folder
    if local_only:
        return None
    raise WeightsError(f"{repo} has no {missing} on the model hub: SGLang cannot serve it from there")


def _download(repo: str, local_only: bool, without: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(repo, allow_patterns=PATTERNS, ignore_patterns=without, local_files_only=local_only)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
