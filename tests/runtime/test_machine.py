"""GPUs as PyTorch and as the kernel show them."""

import pytest

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import hardware, machine
from specreason_sgl.runtime.machine import Gpu


def test_without_cuda_there_are_no_gpus_and_no_process_is_asked(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a process was started"))
    assert machine.gpus() == []


CUDA = """
def device_count(): return 2
def mem_get_info(index): return 70 + index, 80
def get_device_name(index): return f"Toy {index}"
"""


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """The file that is `torch.cuda` to child processes; in this process, asking fails."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "cuda.py").write_text(CUDA)
    (package / "__init__.py").write_text("from torch import cuda")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name in ("mem_get_info", "get_device_name"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_: pytest.fail("this would make a CUDA context"))
    return package / "cuda.py"


def test_gpu_facts_are_read_in_a_process_of_their_own(driver):
    assert machine.gpus() == [Gpu(0, "Toy 0", 80, 70), Gpu(1, "Toy 1", 80, 71)]


def test_a_driver_that_fails_is_named(driver):
    driver.write_text(CUDA.replace("return 70 + index, 80", "raise RuntimeError('no driver')"))
    with pytest.raises(LaunchError, match="GPUs' memory cannot be read: RuntimeError: no driver"):
        machine.gpus()


def test_each_mig_device_is_asked_for_alone(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    alone = "import os\nname = os.environ['CUDA_VISIBLE_DEVICES']\n" + CUDA.replace("return 2", "return 1")
    driver.write_text(alone.replace('f"Toy {index}"', "name"))
    assert [(gpu.index, gpu.name) for gpu in machine.gpus()] == [(0, "MIG-a"), (1, "MIG-b")]


KFD = "sys/class/kfd/kfd/topology/nodes/1"


def pci(vendor, kind):
    device = "sys/bus/pci/devices/0000:01:00.0"
    return {f"{device}/vendor": vendor + "\n", f"{device}/class": kind + "\n"}


def amd(size):
    bank = f"heap_type 1\nsize_in_bytes {size}\nflags 0\n"
    return {"dev/kfd": "", f"{KFD}/mem_banks/0/properties": bank}


@pytest.mark.parametrize(
    ("system", "sign"),
    [
        ({}, ""),
        ({"proc/driver/nvidia/version": "580"}, ""),  # a module without a device
        ({"proc/driver/nvidia/gpus/0000:01:00.0/information": ""}, "/proc/driver/nvidia/gpus/0000:01:00.0"),
        ({"dev/nvidia0": ""}, "an NVIDIA GPU (/dev/nvidia0)"),
        ({"dev/nvidiactl": ""}, ""),
        (pci("0x10de", "0x030200"), "an NVIDIA GPU without a driver (PCI 0000:01:00.0)"),
        (pci("0x10de", "0x040300"), ""),  # its sound
        (amd(192 * 10**9), f"an AMD GPU (/{KFD})"),
        (amd(512 * 10**6), ""),  # graphics of a processor
        ({"dev/kfd": "", "sys/class/kfd/kfd/topology/nodes/0/mem_banks/0/properties": "heap_type 0"}, ""),
        (pci("0x1002", "0x120000"), "an AMD GPU without a driver"),
        (pci("0x1002", "0x030000"), ""),
        (pci("0x1af4", "0x030000"), ""),
    ],
)  # fmt: skip
def test_a_system_shows_its_gpus(tmp_path, system, sign):
    for name, text in system.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shown = hardware.gpu_sign(tmp_path)
    assert sign in shown
    assert bool(shown) == bool(sign)


@pytest.mark.parametrize(
    ("environment", "accelerator", "broken"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"SPECREASON_SGL_CPU": "1"}, False, False),
        ({"SPECREASON_SGL_CPU": "0"}, False, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, False, False),
        ({"HIP_VISIBLE_DEVICES": "-1"}, False, False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, False, True),
    ],
)
def test_a_broken_gpu_is_no_cpu_unless_told(monkeypatch, environment, accelerator, broken):
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "SPECREASON_SGL_CPU",
        "SGLANG_USE_CPU_ENGINE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware, "gpu_sign", lambda: "an NVIDIA GPU (/dev/nvidia0)")
    monkeypatch.setattr(machine, "has_accelerator", lambda: accelerator)
    said = machine.broken_gpu()
    assert bool(said) == broken
    assert machine.uses_cpu_platform() == (not broken and not accelerator)
    if broken:
        assert said.startswith("the system has an NVIDIA GPU (/dev/nvidia0), and PyTorch ")
        assert said.endswith("or set SPECREASON_SGL_CPU=1 to run on the CPU")
        with pytest.raises(LaunchError, match="SPECREASON_SGL_CPU"):
            machine.check_device()


def test_sglangs_own_cpu_engine_is_the_users_choice(monkeypatch):
    monkeypatch.setattr(hardware, "gpu_sign", lambda: "an NVIDIA GPU")
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert machine.broken_gpu() == ""
