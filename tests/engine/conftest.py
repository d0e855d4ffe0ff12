"""Real runtimes: the pair `nano`, started once for all these tests."""

import types

import pytest

from specreason_sgl.cli.serve import COMPACT_JSON
from specreason_sgl.runtime.launch import launch_pair
from specreason_sgl.runtime.pairs import get_pair
from specreason_sgl.runtime.server import Server, ServerSpec, wait_healthy
from specreason_sgl.runtime.weights import find


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/engine/" in str(item.path):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def pair():
    flags = ["--enable-metrics", COMPACT_JSON]
    with launch_pair(get_pair("nano"), draft_args=flags, base_args=flags, pin=True) as running:
        yield running


@pytest.fixture(scope="session")
def starting(tmp_path_factory):
    """Starts the servers of `more` with a key, once, and does not wait for them."""
    servers = {}

    def start(key):
        if not servers:
            folder = tmp_path_factory.mktemp("reward")
            build_reward_model(folder)
            draft = str(find(get_pair("nano").draft))
            servers["draft"] = Server(ServerSpec("draft", draft, args=("--enable-metrics",)), key)
            servers["reward"] = Server(ServerSpec("reward", str(folder), args=("--is-embedding",)), key)
        return types.SimpleNamespace(**servers)

    yield start
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="session")
def more(pair, starting):
    """Two more servers: a second `draft`, and a `reward` model of two layers and random weights, whose
    numbers mean nothing and are always the same."""
    servers = starting(pair.draft.api_key)
    wait_healthy([servers.draft, servers.reward], 300)
    return servers


def build_reward_model(folder):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

    AutoTokenizer.from_pretrained(find(get_pair("nano").base)).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.2, dtype="bfloat16",
        eos_token_id=151645, bos_token_id=151643, architectures=["Qwen2ForRewardModel"],
    )  # fmt: skip
    weights = {f"model.{name}": weight for name, weight in Qwen2Model(config).state_dict().items()}
    for layer, outputs in ((0, 64), (2, 1)):
        weights[f"score.{layer}.weight"] = torch.randn(outputs, 64) / 8
        weights[f"score.{layer}.bias"] = torch.zeros(outputs)
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, folder / "model.safetensors")
    config.save_pretrained(folder)


@pytest.fixture
def draft(pair):
    from specreason_sgl import Endpoint

    with Endpoint(pair.draft, timeout=300) as endpoint:
        yield endpoint


@pytest.fixture
def base(pair):
    from specreason_sgl import Endpoint

    with Endpoint(pair.base, timeout=300) as endpoint:
        yield endpoint
