"""Folders of models that are only as large as real ones."""

import json

GB = 10**9


def model(folder, weights=0, layers=0, **config):
    """A folder with so many bytes of weights (a file with a hole) and a config.json."""
    folder.mkdir(parents=True)
    if weights:
        with open(folder / "model.safetensors", "wb") as file:
            file.truncate(weights)
    if layers:
        config |= {"num_hidden_layers": layers, "num_attention_heads": 16, "hidden_size": 2048}
        config["num_key_value_heads"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    return folder
