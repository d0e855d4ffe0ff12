"""The CPU platform that SGLang finds as a plugin."""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from specreason_sgl.runtime import hardware, machine
from specreason_sgl.runtime.cpu import platform
from specreason_sgl.runtime.cpu.attention import Float32Attention
from specreason_sgl.runtime.cpu.int8 import Int8HeadMethod, Int8WeightMethod, quantize_linears
from specreason_sgl.runtime.cpu.platform import PlainCpuPlatform, activate


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    monkeypatch.setattr(hardware, "gpu_sign", lambda: "")
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


def test_it_leaves_a_machine_alone_whose_gpu_pytorch_does_not_see(no_accelerator, environment, caplog):
    environment.setattr(hardware, "gpu_sign", lambda: "an NVIDIA GPU (/dev/nvidia0)")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "SPECREASON_SGL_CPU"):
        environment.delenv(name, raising=False)
    assert activate() is None
    assert "the system has an NVIDIA GPU (/dev/nvidia0), and PyTorch" in caplog.text
    environment.setenv("SPECREASON_SGL_CPU", "1")
    assert activate()


@pytest.mark.parametrize(("version", "warned"), [(platform.TESTED[0], False), ("9.9.9", True)])
def test_a_version_of_sglang_that_was_not_tested_is_named(
    no_accelerator, environment, caplog, version, warned
):
    environment.setattr(platform, "__version__", version)
    activate()
    assert ("this CPU platform is tested with SGLang 0.5.23, not 9.9.9" in caplog.text) == warned


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("ours", [PlainCpuPlatform, Float32Attention, Int8WeightMethod, Int8HeadMethod])
def test_what_is_overridden_is_there_in_sglang_with_the_same_parameters(ours):
    methods = [name for name, value in vars(ours).items() if inspect.isfunction(value) and name[0] != "_"]
    assert methods
    for name in methods:
        inherited = next((base for base in ours.__mro__[1:] if name in vars(base)), None)
        assert inherited, f"SGLang has no {name} any more"
        assert parameters(vars(ours)[name]) == parameters(vars(inherited)[name])


def test_sglang_itself_resolves_its_settings_by_this_platform(tmp_path, environment):
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 100}
    config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = f"""
        import json
        from sglang.srt.platforms import current_platform
        from sglang.srt.server_args import prepare_server_args
        args = prepare_server_args(["--model-path", {str(tmp_path)!r}, "--skip-tokenizer-init"])
        args.resolve_once()
        flags = args.resolved_dict()
        names = ("device", "sleep_on_idle", "attention_backend", "max_total_tokens")
        print(json.dumps([type(current_platform).__name__, *map(flags.get, names)]))
    """
    cpu = {**os.environ, "SPECREASON_SGL_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=cpu, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    resolved = json.loads(done.stdout.splitlines()[-1])
    assert resolved == ["PlainCpuPlatform", "cpu", True, platform.ATTENTION, platform.MAX_TOTAL_TOKENS]


@pytest.mark.parametrize(
    ("name", "is_router"),
    [
        ("mlp.gate", True),
        ("mlp.router", True),
        ("mlp.shared_expert_gate", True),
        ("block.text_experts_gate", True),
        ("mlp.v_router", True),
        ("mlp.gate_up_proj", False),
        ("mlp.gate_proj", False),
        ("self_attn.o_gate", False),
        ("mlp.experts", False),
    ],
)
def test_routers_keep_their_type(name, is_router):
    from sglang.srt.layers.linear import ReplicatedLinear

    layer = ReplicatedLinear(64, 8, bias=False, params_dtype=torch.bfloat16)
    parent = torch.nn.Module()
    model = torch.nn.ModuleDict({name.partition(".")[0]: parent})
    parent.add_module(name.partition(".")[2], layer)
    assert quantize_linears(model) == (not is_router)
    assert (layer.weight.dtype == torch.bfloat16) == is_router


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
