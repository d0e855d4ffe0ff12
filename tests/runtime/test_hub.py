"""Models of a hub: a small one on loopback, asked by huggingface_hub itself."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from specreason_sgl.errors import WeightsError
from specreason_sgl.runtime import hub
from specreason_sgl.runtime.folders import INDEX

SHARDS = {"model-1.safetensors": b"one", "model-2.safetensors": b"two"}
INDEXED = {INDEX: json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode(), **SHARDS}
COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """One repository, `toy/model`, whose files a test sets; remembers what was downloaded."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.downloaded = {}, []


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        files, body = self.server.files, None
        name = self.path.rpartition(f"/resolve/{COMMIT}/")[2].partition("?")[0]
        if "/tree/" in self.path:
            listed = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": name.encode().hex()[:40].ljust(40, "0"),
                }
                for name, data in files.items()
            ]
            body = json.dumps(listed).encode()
        elif "/api/models/" in self.path:
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": "toy/model", "sha": COMMIT, "siblings": siblings}).encode()
        elif name in files:
            body = files[name]
            if with_body:
                self.server.downloaded.append(name)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{name}"')
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def remote(monkeypatch, tmp_path):
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        constants = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield server
        server.shutdown()


def test_mistrals_second_copy_is_not_downloaded(remote):
    remote.files = {"config.json": b"{}", "consolidated.safetensors": b"again", **INDEXED}
    folder = hub.snapshot("toy/model")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", *INDEXED])
    assert "consolidated.safetensors" not in remote.downloaded
    assert hub.snapshot("toy/model", local_only=True) == folder


def test_weights_that_are_only_in_mistrals_format_are_downloaded(remote):
    remote.files = {"config.json": b"{}", "consolidated.safetensors": b"once"}
    folder = hub.snapshot("toy/model")
    assert (folder / "consolidated.safetensors").read_bytes() == b"once"


def test_a_snapshot_that_lacks_a_shard_is_completed(remote, tmp_path):
    remote.files = {"config.json": b"{}", **INDEXED}
    folder = hub.snapshot("toy/model")
    (folder / "model-2.safetensors").resolve().unlink()
    (folder / "model-2.safetensors").unlink()
    assert hub.snapshot("toy/model", local_only=True) is None
    assert (hub.snapshot("toy/model") / "model-2.safetensors").read_bytes() == b"two"
    assert remote.downloaded.count("model-1.safetensors") == 1


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"model.gguf": b"x", "pytorch_model.bin": b"x"}, r"\*\.safetensors"),
        ({INDEX: INDEXED[INDEX]}, "model-1"),
    ],
)
def test_a_repository_that_sglang_cannot_serve_is_an_error(remote, files, missing):
    remote.files = {"config.json": b"{}", **files}
    with pytest.raises(WeightsError, match=f"^toy/model has no {missing}.* on the model hub"):
        hub.snapshot("toy/model")
    assert hub.snapshot("toy/model", local_only=True) is None


def test_a_hub_cache_that_cannot_be_written_is_one_line(remote, tmp_path, monkeypatch):
    remote.files = {"config.json": b"{}", **INDEXED}
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(blocked))
    with pytest.raises(WeightsError, match=r"^toy/model cannot be fetched from the model hub: ") as raised:
        hub.snapshot("toy/model")
    assert "\n" not in str(raised.value)
