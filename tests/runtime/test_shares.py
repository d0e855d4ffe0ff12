"""Whether models fit on their GPUs, and how they split the memory of shared ones."""

import json
from pathlib import Path

import pytest

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.pairs import PAIRS
from specreason_sgl.runtime.placement import Wish
from specreason_sgl.runtime.shares import Placed, Share, memory_flags, share
from specreason_sgl.runtime.sizes import Load, expected_load, load_of
from tests.support.gpus import GB, model

SMALL, BIG = Load(4 * GB, 1000), Load(40 * GB, 4000)
CONFIGS = Path(__file__).parents[2] / "programs" / "gpu_bench"


def shares(available, draft=(0,), base=(0,), draft_load=SMALL, base_load=BIG, **base_flags):
    draft_wish, base_wish = Wish("draft", draft), Wish("base", base, base_flags)
    return share(Placed(draft_wish, draft, draft_load), Placed(base_wish, base, base_load), available)


def test_the_spare_memory_is_split_so_that_both_hold_as_many_tokens(gpus):
    reserve = 6 * GB  # 2 GB and 5 % of 80
    spare = 80 * GB - 44 * GB - 2 * reserve
    assert shares(gpus) == (Share(4 * GB, spare // 5, reserve), Share(40 * GB, spare * 4 // 5, reserve))


def test_tensor_parallel_servers_share_each_gpu_and_the_fullest_one_counts(gpus):
    draft, base = shares(gpus, (0, 1), (0, 1))
    assert (draft.weights, base.weights) == (2 * GB, 20 * GB)
    assert draft.kv_cache + base.kv_cache == pytest.approx(78 * GB - 22 * GB - 12 * GB)


def test_a_draft_shares_one_gpu_of_a_base_over_several(gpus):
    draft, base = shares(gpus, (0,), (0, 1))
    assert (draft.weights, base.weights) == (4 * GB, 20 * GB)
    assert base.kv_cache == 2 * draft.kv_cache


def test_copies_of_a_model_are_not_split(gpus):
    assert shares(gpus, (0,), (0, 1), dp_size=2)[1].weights == 40 * GB


def test_without_known_sizes_of_tokens_the_weights_decide(gpus):
    both = shares(gpus, draft_load=Load(10 * GB, 0), base_load=Load(30 * GB, 5))
    assert [share.kv_cache for share in both] == [7 * GB, 21 * GB]


def test_models_apart_have_no_share_and_must_fit(gpus):
    assert shares(gpus, (1,), (0,)) == (None, None)
    gpus[0] = Gpu(0, "Toy", 24 * GB, 23 * GB)
    with pytest.raises(LaunchError) as raised:
        shares(gpus, (1,), (0,))
    kv = 16384 * 4000 / GB
    assert str(raised.value) == (
        f"{40 + kv + 3.2:.1f} GB of GPU 0 are needed for the base model (weights 40.0, KV cache {kv:.1f}, "
        "reserve 3.2) and 23.0 GB are free: use more GPUs (--base-gpus) or a smaller pair"
    )
    assert shares(gpus, (1,), (0,), quantization="fp8") == (None, None)
    assert shares(gpus, (1,), (0,), mem_fraction_static=0.9) == (None, None)
    assert shares(gpus, (1,), (0,), base_load=Load(0, 0)) == (None, None)
    assert shares(gpus, (), ()) == (None, None)


def test_models_that_do_not_fit_together_are_refused_with_the_sum(gpus):
    gpus[0] = Gpu(0, "Toy", 80 * GB, 50 * GB)
    with pytest.raises(LaunchError) as raised:
        shares(gpus)
    assert str(raised.value).startswith(
        "56.1 GB of GPU 0 are needed for the draft model and the base model (weights 4.0 + 40.0, KV cache "
        "0.0 + 0.1, reserve 12.0) and 50.0 GB are free"
    )


def test_a_model_of_unknown_size_cannot_share(gpus):
    with pytest.raises(LaunchError, match=r"no \*\.safetensors .* give --mem-fraction-static for both"):
        shares(gpus, base_load=Load(0, 0))


def test_the_fraction_is_of_what_is_free_when_the_server_starts(gpus):
    share = Share(weights=10 * GB, kv_cache=6 * GB, reserve=4 * GB)
    assert memory_flags(share, [0]) == ["--mem-fraction-static", "0.2000"]
    gpus[0] = Gpu(0, "Toy", 80 * GB, 32 * GB)
    assert memory_flags(share, [0]) == ["--mem-fraction-static", "0.5000"]
    gpus[0] = Gpu(0, "Toy", 80 * GB, 18 * GB)  # less than planned: a smaller KV cache
    assert memory_flags(share, [0]) == ["--mem-fraction-static", "0.7778"]
    gpus[0] = Gpu(0, "Toy", 80 * GB, 14 * GB)
    with pytest.raises(LaunchError, match=r"more than 14\.0 GB of GPU 0 and 14\.0 GB are free"):
        memory_flags(share, [0])
    with pytest.raises(LaunchError, match="GPU 5 cannot be found"):
        memory_flags(share, [5])


@pytest.mark.parametrize(("name", "side"), [("qwq-32b", "base"), ("deepseek-r1-distill-qwen-1.5b", "draft")])
def test_a_configuration_tells_what_the_pair_declares(name, side):
    declared, read = expected_load(getattr(PAIRS["paper"], side)), load_of(CONFIGS / name)
    assert read.kv_per_token == declared.kv_per_token
    assert read.weights == pytest.approx(declared.weights, rel=0.001)


def test_the_files_of_the_weights_are_what_counts_and_other_models_are_not_guessed(tmp_path):
    config = json.loads((CONFIGS / "qwq-32b" / "config.json").read_text())
    assert load_of(model(tmp_path / "a", 5 * GB, **config)).weights == 5 * GB
    assert load_of(model(tmp_path / "b", num_experts=8, **config)).weights == 0
    assert load_of(model(tmp_path / "c", 5 * GB, kv_lora_rank=512, **config)) == Load(5 * GB, 0)
    assert load_of(model(tmp_path / "d")) == Load(0, 0)
    assert Load(44 * GB, 5000) == (SMALL + BIG)
    assert Load(GB, 0) + BIG == Load(41 * GB, 0)
