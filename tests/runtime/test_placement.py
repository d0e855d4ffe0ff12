"""Which GPUs the models get."""

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.placement import Wish, parallel_flags, place


@pytest.fixture(autouse=True)
def no_names(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def some(count):
    return [Gpu(i, "Toy", 80, 80) for i in range(count)]


def placed(count, draft=(), base=(), draft_flags=None, base_flags=None):
    return place(Wish("draft", draft, draft_flags or {}), Wish("base", base, base_flags or {}), some(count))


@pytest.mark.parametrize(
    ("count", "wishes", "expected"),
    [
        (0, {}, ((), ())),
        (0, {"base_flags": {"tp_size": 2}}, ((), ())),  # SGLang's own affair
        (1, {}, ((0,), (0,))),
        (2, {}, ((1,), (0,))),
        (2, {"draft": (1,), "base": (0,)}, ((1,), (0,))),
        (2, {"base": (1,)}, ((0,), (1,))),
        (2, {"draft": (0,)}, ((0,), (1,))),
        (2, {"draft": (1,), "base": (1,)}, ((1,), (1,))),
        (2, {"base": (0, 1)}, ((0,), (0, 1))),
        (2, {"draft": (0, 1)}, ((0, 1), (0,))),
        (2, {"base_flags": {"tp_size": 2}}, ((0,), (0, 1))),
        (4, {"base_flags": {"tp_size": 2}}, ((2,), (0, 1))),
        (4, {"base_flags": {"tp_size": 2}, "draft": (0,)}, ((0,), (1, 2))),
        (4, {"base_flags": {"pp_size": 3}, "draft_flags": {"dp_size": 2}}, ((0, 1), (0, 1, 2))),
        (8, {"base_flags": {"tp_size": 4, "dp_size": 2}}, ((0,), tuple(range(8)))),
        (8, {"base_flags": {"tp_size": 16, "nnodes": 4}}, ((4,), (0, 1, 2, 3))),
    ],
)
def test_models_are_apart_where_there_are_enough_gpus(count, wishes, expected):
    assert placed(count, **wishes) == expected


@pytest.mark.parametrize(
    ("count", "wishes", "says"),
    [
        (0, {"draft": (0,)}, "--draft-gpus needs an NVIDIA or AMD GPU, and PyTorch sees none"),
        (2, {"draft": (2,)}, "--draft-gpus: there is no GPU 2; there are 0, 1"),
        (2, {"base": (-1, 7)}, "--base-gpus: there is no GPU -1, 7; there are 0, 1"),
        (2, {"base": (1, 1)}, "--base-gpus names a GPU twice: 1, 1"),
        (2, {"base_flags": {"tp_size": 4}}, "--base-args ask for 4 GPUs, and there are 2"),
        (
            4,
            {"base": (0, 1), "base_flags": {"tp_size": 4}},
            "--base-args ask for 4 GPUs, and --base-gpus names 0, 1",
        ),
        (
            2,
            {"draft_flags": {"base_gpu_id": 1}},
            "--draft-args must come without --base-gpu-id: name the GPUs by --draft-gpus",
        ),
    ],
)
def test_placements_that_cannot_be_are_refused(count, wishes, says):
    with pytest.raises(ConfigError) as raised:
        placed(count, **wishes)
    assert str(raised.value) == says


def test_a_model_does_not_go_over_several_mig_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    assert placed(2) == ((1,), (0,))
    with pytest.raises(ConfigError, match="a model must fit on one MIG device, and base asks for 2"):
        placed(2, base=(0, 1))


@pytest.mark.parametrize(
    ("args", "flags", "count", "split"),
    [
        (["--tp", "4"], [], 4, 4),
        (["--tensor-parallel-size=2", "--dp", "2"], [], 4, 2),
        (["--enable-metrics"], ["--tensor-parallel-size", "2"], 2, 2),
    ],
)
def test_the_users_own_parallel_flags_win(args, flags, count, split):
    gpus = tuple(range(count))
    wish = Wish.read("base", gpus, args)
    assert (parallel_flags(wish, gpus), wish.count, wish.split) == (flags, count, split)
    assert parallel_flags(Wish("base"), (0,)) == []


@pytest.mark.parametrize(
    ("variable", "hip", "shown"),
    [
        (None, None, {"CUDA_VISIBLE_DEVICES": "1,0"}),
        ("6, 4", None, {"CUDA_VISIBLE_DEVICES": "4,6"}),
        ("MIG-a,MIG-b", None, {"CUDA_VISIBLE_DEVICES": "MIG-b,MIG-a"}),
        ("GPU-a,GPU-b", "6.4", {"HIP_VISIBLE_DEVICES": "GPU-b,GPU-a", "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}),
    ],
)
def test_a_server_sees_its_gpus_by_the_names_that_this_process_sees(monkeypatch, variable, hip, shown):
    monkeypatch.setattr("torch.version.hip", hip)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert machine.visibility((1, 0)) == shown
    assert machine.visibility(()) == {}


def test_amds_own_variable_wins_on_amd_and_is_none_of_nvidias(monkeypatch):
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "3,2")
    monkeypatch.setattr("torch.version.hip", "6.4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert machine.visibility((1,))["HIP_VISIBLE_DEVICES"] == "2"
    monkeypatch.setattr("torch.version.hip", None)
    assert machine.visibility((0,)) == {"CUDA_VISIBLE_DEVICES": "7"}
