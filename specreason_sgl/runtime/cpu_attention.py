"""Attention in float32 and of the new tokens only, for CPUs without a fast bfloat16.

SGLang's `torch_native` (0.5.23) computes the attention of all cached tokens anew whenever new ones are read,
in bfloat16: a score costs the square of the chain of thought. This is an attention backend of its own (SGLang
documentation, "Attention Backend"). Layers that are not plain causal self-attention are left to the other.
"""

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

BLOCK = 128  # new tokens at a time: a long prompt's weights would not fit into the memory


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
            place = KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc)
            pool.set_kv_buffer(layer, place, k, v)
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        q = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        out = q.new_empty(q.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        start = 0
        requests, lengths = forward_batch.req_pool_indices.tolist(), forward_batch.seq_lens.tolist()
        for request, length, count in zip(requests, lengths, new, strict=True):
            places = self.req_to_token_pool.req_to_token[request, :length]
            rows = slice(start, start + count)
            out[rows] = attend(q[rows], keys[places], values[places], layer.scaling, layer.logit_cap)
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
    """Causal attention of the last tokens of a sequence to all of it.

    Args:
        q: (new tokens, heads, size).
        keys: (all tokens, key heads, size); each serves heads / key heads of `q`.
        values: (all tokens, key heads, size of a value).
        scaling: of the products.
        cap: what they stay below, by tanh (Gemma 2); 0: none.

    Returns:
        float32 (new tokens, heads, size of a value).
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
