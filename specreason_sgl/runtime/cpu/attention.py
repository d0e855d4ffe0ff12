"""An attention backend for CPUs without fast bfloat16: float32, new tokens only.

SGLang's `torch_native` backend (0.5.23) recomputes the attention of every cached token, in bfloat16, whenever
a prompt is extended, so the cost of a score is quadratic in the chain of thought. This backend (SGLang
documentation, "Attention Backend") handles plain causal self-attention and falls back to `torch_native` for
all other layers.
"""

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

BLOCK = 128  # new tokens per block: the attention weights of a whole long prompt would not fit in memory


class Float32Attention(TorchNativeAttnBackend):
    def forward_extend(self, q, k, v, layer, forward_batch, save_kv_cache=True):
        if not _is_plain(layer, forward_batch):
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
        new = forward_batch.extend_seq_lens.tolist()
        return self._forward(q, k, v, layer, forward_batch, save_kv_cache, new)

    def forward_decode(self, q, k, v, layer, forward_batch, save_kv_cache=True):
        if not _is_plain(layer, forward_batch):
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        new = [1] * len(forward_batch.seq_lens)
        return self._forward(q, k, v, layer, forward_batch, save_kv_cache, new)

    def _forward(self, q, k, v, layer, forward_batch, save_kv_cache, new: list[int]) -> torch.Tensor:
        pool = self.token_to_kv_pool
        if save_kv_cache and k is not None and v is not None:
            location = KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc)
            pool.set_kv_buffer(layer, location, k, v)
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        q = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        out = q.new_empty(q.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        start = 0
        requests, lengths = forward_batch.req_pool_indices.tolist(), forward_batch.seq_lens.tolist()
        for request, length, count in zip(requests, lengths, new, strict=True):
            slots = self.req_to_token_pool.req_to_token[request, :length]
            rows = slice(start, start + count)
            out[rows] = attend(q[rows], keys[slots], values[slots], layer.scaling, layer.logit_cap)
            start += count
        return out.view(q.shape[0], -1)


def _is_plain(layer, forward_batch) -> bool:
    return (
        layer.attn_type == AttentionType.DECODER
        and not layer.is_cross_attention
        and forward_batch.encoder_lens is None
        and layer.sliding_window_size in (None, -1)
    )


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, cap: float = 0.0
) -> torch.Tensor:
    """Causal attention of the last tokens of a sequence over the whole sequence.

    Args:
        q: (new tokens, heads, head size).
        keys: (all tokens, key heads, head size); each key head serves heads / key heads query heads.
        values: (all tokens, key heads, value size).
        scaling: factor on the logits.
        cap: soft cap on the logits by tanh, as in Gemma 2; 0 for none.

    Returns:
        float32 (new tokens, heads, value size).
    """
    count, heads, _ = q.shape
    length, groups, size = values.shape
    q, keys, values = q.float() * scaling, keys.float().transpose(0, 1), values.float().transpose(0, 1)
    out = torch.empty(count, heads, size)
    for start in range(0, count, BLOCK):
        rows = q[start : start + BLOCK]
        n = len(rows)
        seen = length - count + start + n
        grouped = (
            rows.view(n, groups, -1, rows.shape[-1]).permute(1, 2, 0, 3).reshape(groups, -1, rows.shape[-1])
        )
        weights = grouped @ keys[:, :seen].transpose(1, 2)
        if cap:
            weights = cap * torch.tanh(weights / cap)
        if n > 1:
            later = torch.ones(n, n, dtype=torch.bool).triu(1)
            weights.view(groups, -1, n, seen)[..., seen - n :].masked_fill_(later, -torch.inf)
        mixed = weights.softmax(-1) @ values[:, :seen]
        out[start : start + n] = mixed.view(groups, -1, n, size).permute(2, 0, 1, 3).reshape(n, heads, size)
    return out
