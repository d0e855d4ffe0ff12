"""Attention on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.radix_attention import AttentionType
from torch.nn.functional import scaled_dot_product_attention

from specreason_sgl.runtime.cpu import attention
from specreason_sgl.runtime.cpu.attention import Float32Attention, attend

HEADS, KEY_HEADS, SIZE = 6, 2, 16


def expected(q, keys, values, scaling, cap=0.0):
    """PyTorch's written, with the mask written out."""
    if cap:
        return capped(q, keys, values, scaling, cap)
    count, length = len(q), len(keys)
    seen = torch.arange(length) <= torch.arange(length - count, length)[:, None]
    q, keys, values = (tensor.double().transpose(0, 1)[None] for tensor in (q, keys, values))
    out = scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=scaling, enable_gqa=True)
    return out[0].transpose(0, 1).float()


def capped(q, keys, values, scaling, cap):
    out = torch.empty(len(q), HEADS, values.shape[-1], dtype=torch.float64)
    for i in range(len(q)):
        seen = len(keys) - len(q) + i + 1
        for head in range(HEADS):
            group = head // (HEADS // KEY_HEADS)
            products = keys[:seen, group].double() @ q[i, head].double() * scaling
            out[i, head] = (cap * torch.tanh(products / cap)).softmax(0) @ values[:seen, group].double()
    return out.float()


def random(*shape):
    return torch.randn(*shape).bfloat16()


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize(("count", "length"), [(1, 1), (1, 40), (2, 40), (7, 7), (9, 30), (17, 60), (40, 40)])
def test_new_tokens_attend_to_all_before_them_and_to_none_after(monkeypatch, count, length, cap):
    monkeypatch.setattr(attention, "BLOCK", 8)
    torch.manual_seed(0)
    q, keys = random(count, HEADS, SIZE), random(length, KEY_HEADS, SIZE)
    values = random(length, KEY_HEADS, 2 * SIZE)
    torch.testing.assert_close(attend(q, keys, values, 0.3, cap), expected(q, keys, values, 0.3, cap))


class Pool:
    def __init__(self, tokens):
        self.keys, self.values = random(tokens, KEY_HEADS, SIZE), random(tokens, KEY_HEADS, SIZE)

    def set_kv_buffer(self, layer, place, k, v):
        self.keys[place.loc], self.values[place.loc] = k, v

    def get_key_buffer(self, layer_id):
        return self.keys

    def get_value_buffer(self, layer_id):
        return self.values


@pytest.mark.parametrize(("sliding", "cap"), [(-1, 0.0), (-1, 2.0), (4, 0.0)])
def test_each_request_of_a_batch_reads_its_own_tokens(sliding, cap):
    """With a sliding window SGLang's implementation does."""
    torch.manual_seed(0)
    places = torch.stack([torch.randperm(30)[:12], torch.randperm(30)[:12] + 30])
    pool = Pool(60)
    requests = SimpleNamespace(req_to_token=places)
    runner = SimpleNamespace(device="cpu", req_to_token_pool=requests, token_to_kv_pool=pool)
    layer = SimpleNamespace(
        attn_type=AttentionType.DECODER, is_cross_attention=False, sliding_window_size=sliding, layer_id=0,
        tp_q_head_num=HEADS, tp_k_head_num=KEY_HEADS, qk_head_dim=SIZE, v_head_dim=SIZE, scaling=0.25,
        logit_cap=cap,
    )  # fmt: skip
    lengths, new = [12, 9], [4, 1]
    q = random(5, HEADS * SIZE)
    k, v = random(5, KEY_HEADS, SIZE), random(5, KEY_HEADS, SIZE)
    written = torch.cat([places[0, 8:12], places[1, 8:9]])
    batch = SimpleNamespace(
        encoder_lens=None, out_cache_loc=written, req_pool_indices=torch.tensor([0, 1]),
        seq_lens=torch.tensor(lengths), extend_seq_lens=torch.tensor(new),
        extend_prefix_lens=torch.tensor([8, 8]),
    )  # fmt: skip
    out = Float32Attention(runner).forward_extend(q, k, v, layer, batch)
    assert torch.equal(pool.keys[written], k)
    rows = q.view(5, HEADS, SIZE)
    for i, at in ((0, slice(0, 4)), (1, slice(4, 5))):
        slots = places[i, : lengths[i]]
        if sliding > 0:
            slots = slots[-1 - sliding :] if new[i] == 1 else None
        if slots is not None:
            wanted = expected(rows[at], pool.keys[slots], pool.values[slots], 0.25, cap)
            torch.testing.assert_close(out[at].view(-1, HEADS, SIZE).float(), wanted, atol=0.02, rtol=0.02)

    # One token each, from what is there now.
    batch.seq_lens = torch.tensor([9, 12])
    batch.out_cache_loc = torch.stack([places[0, 8], places[1, 11]])
    out = Float32Attention(runner).forward_decode(q[:2], k[:2], v[:2], layer, batch)
    for i in range(2):
        slots = places[i, : batch.seq_lens[i]][-1 - sliding if sliding > 0 else 0 :]
        wanted = expected(rows[i : i + 1], pool.keys[slots], pool.values[slots], 0.25, cap)
        torch.testing.assert_close(out[i].view(1, HEADS, SIZE).float(), wanted, atol=0.02, rtol=0.02)
