"""A machine with two GPUs that are not there, and a pair for it."""

import pytest

from specreason_sgl.runtime import machine
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.pairs import Model, PairSpec
from tests.support.gpus import GB, model


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Two GPUs of 80 GB, of which a test can change what is free."""
    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    available = [Gpu(0, "Toy", 80 * GB, 80 * GB), Gpu(1, "Toy", 80 * GB, 78 * GB)]
    monkeypatch.setattr(machine, "gpus", lambda: list(available))
    monkeypatch.setattr(machine, "has_accelerator", lambda: True)
    return available


@pytest.fixture
def toy_pair(tmp_path):
    """A draft of 4 GB and a base of 40 GB, which takes four times as much of KV cache a token."""
    draft = model(tmp_path / "small", 4 * GB, layers=16)
    base = model(tmp_path / "big", 40 * GB, layers=64)
    return PairSpec("toy", Model(str(draft)), Model(str(base)))
