"""What a model takes of a GPU: bytes of weights, and of KV cache per token."""

import json
from dataclasses import dataclass
from pathlib import Path

from specreason_sgl.runtime.folders import weights_bytes
from specreason_sgl.runtime.machine import BFLOAT16
from specreason_sgl.runtime.pairs import Model


@dataclass(frozen=True)
class Load:
    """What one server loads, in bytes; 0 where it is unknown."""

    weights: int
    kv_per_token: int

    def __add__(self, other: "Load") -> "Load":
        """Both models in one server; unknown where one of them is."""
        weights, kv = (self.weights, other.weights), (self.kv_per_token, other.kv_per_token)
        return Load(all(weights) * sum(weights), all(kv) * sum(kv))

    def over(self, gpus: int) -> "Load":
        """A GPU's part if the model is split over so many."""
        return Load(self.weights // gpus, self.kv_per_token // gpus)


def load_of(folder: Path) -> Load:
    """By the weights in a folder, or as config.json describes them, in bfloat16, where there are none."""
    return Load(weights_bytes(folder) or parameters(folder) * BFLOAT16, kv_bytes_per_token(folder))


def expected_load(model: Model) -> Load:
    """By the model's declaration in `pairs`."""
    return Load(model.parameters * BFLOAT16, model.kv_per_token)


def model_config(folder: Path) -> dict:
    """The language model's part of a model's config.json; empty if it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config.get("text_config", config)


def kv_bytes_per_token(folder: Path) -> int:
    """Bytes of KV cache per token in bfloat16; 0 if config.json does not tell."""
    config = model_config(folder)
    if "kv_lora_rank" in config:  # latent attention: another layout
        return 0
    try:
        _, kv_heads, size = _heads(config)
        return 2 * config["num_hidden_layers"] * kv_heads * size * BFLOAT16
    except KeyError:
        return 0


def parameters(folder: Path) -> int:
    """The matrices' parameters of a dense decoder, as config.json describes it; 0 for other models."""
    config = model_config(folder)
    if any("expert" in name or name == "kv_lora_rank" for name in config):
        return 0
    try:
        heads, kv_heads, size = _heads(config)
        hidden = config["hidden_size"]
        layer = hidden * (2 * size * (heads + kv_heads) + 3 * config["intermediate_size"])
        embeddings = config["vocab_size"] * (1 if config.get("tie_word_embeddings") else 2)
        return config["num_hidden_layers"] * layer + embeddings * hidden
    except KeyError:
        return 0


def _heads(config: dict) -> tuple[int, int, int]:
    """Query heads, key and value heads, and their size."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    return heads, config.get("num_key_value_heads") or heads, size
