"""GPUs as the kernel shows them, whatever PyTorch sees: Linux only.

Graphics inside a processor are left out: they come with laptops, whose CPU is what this package should use.
"""

from collections.abc import Iterator
from pathlib import Path

NVIDIA, AMD = "0x10de", "0x1002"  # PCI vendors
DISPLAY, ACCELERATOR = "0x03", "0x12"  # first byte of a PCI class
OWN_MEMORY = 4_000_000_000  # bytes; what a processor sets aside for its graphics is less


def gpu_sign(root: Path = Path("/")) -> str:
    """What shows that this system has an NVIDIA or AMD GPU; empty if nothing does."""
    return next(_signs(root), "")


def _signs(root: Path) -> Iterator[str]:
    for pattern in ("proc/driver/nvidia/gpus/*", "dev/nvidia[0-9]*", "usr/lib/wsl/lib/nvidia-smi"):
        for path in sorted(root.glob(pattern)):
            yield f"an NVIDIA GPU (/{path.relative_to(root)})"
    if (root / "dev/kfd").exists():
        for node in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*")):
            if _own_memory(node) >= OWN_MEMORY:
                yield f"an AMD GPU (/{node.relative_to(root)})"
    for device in sorted(root.glob("sys/bus/pci/devices/*")):
        vendor, kind = _read(device / "vendor"), _read(device / "class")
        if vendor == NVIDIA and kind.startswith((DISPLAY, ACCELERATOR)):
            yield f"an NVIDIA GPU without a driver (PCI {device.name})"
        if vendor == AMD and kind.startswith(ACCELERATOR):
            yield f"an AMD GPU without a driver (PCI {device.name})"


def _own_memory(node: Path) -> int:
    """Bytes of video memory of a node of AMD's driver; 0 for a processor."""
    banks = [dict(_pairs(bank)) for bank in node.glob("mem_banks/*/properties")]
    return sum(int(bank["size_in_bytes"]) for bank in banks if bank.get("heap_type") in ("1", "2"))


def _pairs(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in _read(path).splitlines() if len(line.split()) == 2)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
