"""The CPU platform that SGLang finds as a plugin."""

import os
from types import SimpleNamespace

import pytest
import torch

from specreason_sgl.runtime import machine
from specreason_sgl.runtime.cpu import platform
from specreason_sgl.runtime.cpu.attention import Float32Attention
from specreason_sgl.runtime.cpu.platform import PlainCpuPlatform, activate


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)


@pytest.fixture
def environment(monkeypatch):
    for name in (*platform.PASSIVE_OPENMP, platform.INT8_WEIGHTS, "SPECREASON_SGL_SLEEP_ON_IDLE"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    return monkeypatch


def test_it_is_active_where_there_is_no_accelerator(no_accelerator, environment):
    assert activate() == "specreason_sgl.runtime.cpu.platform.PlainCpuPlatform"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_it_steps_aside_for_an_accelerator_and_for_sglangs_own_cpu_engine(monkeypatch, environment):
    monkeypatch.setattr(machine, "has_accelerator", lambda: True)
    assert activate() is None
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert activate() is None


def test_the_users_openmp_settings_win(no_accelerator, environment):
    environment.setenv("OMP_WAIT_POLICY", "ACTIVE")
    activate()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def server_args(**changes):
    defaults = {"sleep_on_idle": False, "max_total_tokens": None, "dtype": "auto"}
    defaults |= {"attention_backend": "intel_amx", "page_size": None}
    return SimpleNamespace(**{**defaults, **changes})


def test_defaults_are_for_a_small_machine(environment):
    environment.setattr(platform, "uses_int8_weights", lambda: True)
    args = server_args()
    PlainCpuPlatform().apply_server_args_defaults(args)
    assert (args.sleep_on_idle, args.max_total_tokens, args.dtype) == (True, 20480, "bfloat16")
    assert os.environ[platform.INT8_WEIGHTS] == "1"


@pytest.mark.parametrize(
    ("given", "page_size", "taken"),
    [
        ("intel_amx", None, "cpu_float32"),  # what SGLang 0.5.23 fills in for a CPU
        ("intel_amx", 1, "cpu_float32"),
        ("intel_amx", 16, "intel_amx"),
        ("torch_native", None, "torch_native"),
    ],
)
def test_attention_is_in_float32_unless_the_user_says_otherwise(environment, given, page_size, taken):
    args = server_args(attention_backend=given, page_size=page_size)
    PlainCpuPlatform().apply_server_args_defaults(args)
    assert args.attention_backend == taken


def test_a_worker_knows_the_attention_backend(monkeypatch):
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS

    monkeypatch.delitem(ATTENTION_BACKENDS, platform.ATTENTION, raising=False)
    PlainCpuPlatform().init_backend()
    assert ATTENTION_BACKENDS[platform.ATTENTION] is Float32Attention
    monkeypatch.delitem(ATTENTION_BACKENDS, platform.ATTENTION)


def test_each_default_can_be_overridden(environment):
    environment.setattr(platform, "uses_int8_weights", lambda: True)
    environment.setenv("SPECREASON_SGL_SLEEP_ON_IDLE", "0")
    args = server_args(max_total_tokens=99, dtype="float32")
    PlainCpuPlatform().apply_server_args_defaults(args)
    assert (args.sleep_on_idle, args.max_total_tokens, args.dtype) == (False, 99, "float32")
    assert platform.INT8_WEIGHTS not in os.environ


@pytest.mark.parametrize("rows", [1, 16, 17])
def test_int8_logits_are_close_and_the_embedding_is_what_it_was(rows):
    from sglang.srt.layers.logits_processor import should_apply_lm_head_quant_method
    from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod

    from specreason_sgl.runtime.cpu.int8 import quantize_linears

    torch.manual_seed(0)
    head = torch.nn.Module()
    head.weight = torch.nn.Parameter(torch.randn(1000, 64).bfloat16(), requires_grad=False)
    head.quant_method = UnquantizedEmbeddingMethod()
    x = torch.randn(rows, 64, dtype=torch.bfloat16)
    ids = torch.tensor([0, 999])
    embedded = head.quant_method.embedding(head, ids)
    model = torch.nn.Module()
    model.lm_head = head
    assert quantize_linears(model) == 1
    assert should_apply_lm_head_quant_method(head, head.quant_method)
    logits = head.quant_method.apply(head, x, None)
    expected = x.float() @ head.weight.float().t()
    assert (logits.float() - expected).norm() / expected.norm() < 0.01
    assert torch.equal(head.quant_method.embedding(head, ids), embedded)


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 100])
def test_int8_linears_are_close_to_the_bfloat16_ones(rows):
    from sglang.srt.layers.linear import ReplicatedLinear

    from specreason_sgl.runtime.cpu.int8 import quantize_linears

    torch.manual_seed(0)
    layer = ReplicatedLinear(256, 600, bias=True, params_dtype=torch.bfloat16)
    layer.weight.data.normal_(std=0.05)
    layer.bias.data.normal_()
    odd = ReplicatedLinear(100, 8, bias=False, params_dtype=torch.bfloat16)
    x = torch.randn(rows, 256, dtype=torch.bfloat16)
    expected = torch.nn.functional.linear(x.float(), layer.weight.data.float(), layer.bias.data.float())
    assert quantize_linears(torch.nn.ModuleList([layer, odd])) == 1
    assert (layer.weight.dtype, odd.weight.dtype) == (torch.int8, torch.bfloat16)
    actual, _ = layer(x)
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).norm() / expected.norm() < 0.01
