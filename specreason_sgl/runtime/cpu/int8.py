"""Linear layers with int8 weights, for CPUs without AVX-512.

Such CPUs multiply bfloat16 slowly and have little memory bandwidth. Weights get one scale per output row and
need no calibration; activations stay bfloat16. The CPU platform installs these layers in SGLang's
`post_load_model` hook, which exists to swap quantization methods (SGLang documentation, "Plugin System").
"""

import re

import torch
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod, UnquantizedLinearMethod

PACKED_ROWS = 16  # up to this many input rows torch's int8 kernel beats multiplying by float32 blocks
BLOCK = 512  # output rows dequantized at a time; a block fits in the cache
ROUTER = re.compile(r"(^|\.)gate$|(^|[._])router$|experts?_gate$")  # what SGLang's models call them
K_MULTIPLE = 32  # torch's kernel requires an input size divisible by this


class Int8WeightMethod(UnquantizedLinearMethod):
    """`y = x @ (scale * weight).T + bias`, weight int8 (out, in), scale bfloat16 (out,)."""

    def apply(self, layer, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return _multiply(x, layer.weight, layer.weight_scale, bias)


class Int8HeadMethod(UnquantizedEmbeddingMethod):
    """The same for the output head. Its bfloat16 weight stays: it is often tied to the embedding."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight, self.scale = _quantize(weight)

    def apply(self, layer, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return _multiply(x.to(torch.bfloat16), self.weight, self.scale, bias)


def quantize_linears(model: torch.nn.Module) -> int:
    """Quantize the plain bfloat16 linear layers of a loaded model in place; returns how many.

    Routers of mixtures of experts stay as they are: they are small, and a rounded logit can choose another
    expert.
    """
    count = 0
    for name, layer in model.named_modules():
        if (
            ROUTER.search(name)
            or not isinstance(layer, LinearBase)
            or type(layer.quant_method) is not UnquantizedLinearMethod
        ):
            continue
        if not _fits(layer.weight):
            continue
        quantized, scale = _quantize(layer.weight.data)
        layer.weight = torch.nn.Parameter(quantized, requires_grad=False)
        layer.weight_scale = torch.nn.Parameter(scale, requires_grad=False)
        layer.quant_method = Int8WeightMethod()
        count += 1
    head = getattr(model, "lm_head", None)
    if type(getattr(head, "quant_method", None)) is UnquantizedEmbeddingMethod and _fits(head.weight):
        head.quant_method = Int8HeadMethod(head.weight.data)
        count += 1
    return count


def _fits(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.shape[1] % K_MULTIPLE == 0


def _quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a bfloat16 weight to int8 (out, in) and a bfloat16 scale (out,).

    Works in blocks, because a float32 copy of a whole vocabulary takes a gigabyte.
    """
    scale = (weight.abs().amax(dim=1).float() / 127).clamp_min(1e-8).bfloat16()
    quantized = torch.empty(weight.shape, dtype=torch.int8)
    for i in range(0, weight.shape[0], 16 * BLOCK):
        rows = slice(i, i + 16 * BLOCK)
        quantized[rows] = (weight[rows].float() / scale[rows].float()[:, None]).round_().clamp_(-127, 127)
    return quantized, scale


def _multiply(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] <= PACKED_ROWS:
        y = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), weight, scale)
    else:
        y = _multiply_blocks(rows.float(), weight, scale.float()).to(x.dtype)
    y = y.reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _multiply_blocks(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    y = torch.empty(x.shape[0], weight.shape[0])
    for i in range(0, weight.shape[0], BLOCK):
        y[:, i : i + BLOCK] = x @ weight[i : i + BLOCK].float().t()
    return y.mul_(scale)
