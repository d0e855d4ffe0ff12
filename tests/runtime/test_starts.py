"""What `launch_pair` starts on which GPUs, with stand-ins for the servers."""

import sys

import pytest

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import doctor, launch, machine
from specreason_sgl.runtime.launch import launch_pair
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.pairs import Model, PairSpec
from specreason_sgl.runtime.placement import Wish
from specreason_sgl.runtime.server import Server
from tests.support.gpus import GB
from tests.support.waiting import wait_until

STAND_IN = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def started(monkeypatch, gpus):
    """What launch_pair starts, in order; it takes 60 GB of GPU 0 for the base and 10 for the draft."""
    commands = []
    real = Server.command.fget

    def command(self):
        commands.append((self.spec.role, self.spec.environment().get("CUDA_VISIBLE_DEVICES"), real(self)[8:]))
        gpus[0] = Gpu(0, "Toy", 80 * GB, gpus[0].free - (60 if self.spec.role == "base" else 10) * GB)
        return [sys.executable, "-c", STAND_IN, str(self.port)]

    monkeypatch.setattr(Server, "command", property(command))
    return commands


def without_port(started):
    return [(role, gpus, flags[2:]) for role, gpus, flags in started]


def test_apart_each_server_gets_its_gpus(started, toy_pair):
    lines = []
    flags = ["--enable-metrics"]
    with launch_pair(toy_pair, draft_gpus=[1], base_gpus=[0], base_args=flags, status=lines.append) as both:
        assert (both.draft.spec.role, both.base.spec.role) == ("draft", "base")
    assert without_port(started) == [("draft", "1", []), ("base", "0", flags)]
    assert lines[-1] == "both servers are ready"


@pytest.mark.parametrize(
    ("options", "base", "flags"),
    [
        ({"base_gpus": [0, 2]}, "0,2", ["--tensor-parallel-size", "2"]),
        ({"base_args": ["--tp", "2"]}, "0,1", ["--tp", "2"]),
    ],
)
def test_several_gpus_are_tensor_parallel(started, toy_pair, gpus, options, base, flags):
    gpus.append(Gpu(2, "Toy", 80 * GB, 80 * GB))
    with launch_pair(toy_pair, **options):
        pass
    (_, draft_gpus, draft_flags), (_, base_gpus, base_flags) = without_port(started)
    assert (draft_gpus, draft_flags) == ("1" if base == "0,2" else "2", [])
    assert (base_gpus, base_flags) == (base, flags)


def test_a_draft_on_one_gpu_of_the_base_does_not_make_sglang_refuse_the_base(started, toy_pair):
    with launch_pair(toy_pair, base_args=["--tp", "2"]) as both:
        pass
    assert [(role, seen) for role, seen, _ in started] == [("base", "0,1"), ("draft", "0")]
    environments = [server.spec.environment() for server in (both.base, both.draft)]
    assert {env["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] for env in environments} == {"0"}


def test_on_one_gpu_the_base_starts_first_and_the_draft_gets_its_share_of_the_rest(started, toy_pair, gpus):
    del gpus[1]
    lines = []
    with launch_pair(toy_pair, status=lines.append) as both:
        assert (both.draft.spec.role, both.base.spec.role) == ("draft", "base")
    spare = 80 - 44 - 12
    base = f"{(40 + spare * 0.8) / 80:.4f}"
    draft = f"{(4 + spare * 0.2) / 20:.4f}"
    assert without_port(started) == [
        ("base", "0", ["--mem-fraction-static", base]),
        ("draft", "0", ["--mem-fraction-static", draft]),
    ]
    assert lines.index("the base server is ready") < lines.index("both servers are ready")


def test_the_users_own_fractions_win(started, toy_pair, gpus):
    with launch_pair(toy_pair, base_gpus=[0], draft_gpus=[0], draft_args=["--mem-fraction-static=0.5"]):
        pass
    assert [flags for _, _, flags in without_port(started)] == [
        ["--mem-fraction-static", "0.7400"],
        ["--mem-fraction-static=0.5"],
    ]
    started.clear()
    gpus[0] = Gpu(0, "Toy", 80 * GB, 1 * GB)  # nothing fits, which is the user's affair now
    fraction = ["--mem-fraction-static", "0.3"]
    with launch_pair(toy_pair, base_gpus=[0], draft_gpus=[0], draft_args=fraction, base_args=fraction):
        pass
    assert [flags for _, _, flags in without_port(started)] == [fraction, fraction]


def test_what_does_not_fit_together_is_said_before_anything_starts(started, toy_pair, gpus):
    gpus[0] = Gpu(0, "Toy", 80 * GB, 40 * GB)
    with pytest.raises(LaunchError, match="GB of GPU 0 are needed for the draft model and the base model"):
        launch_pair(toy_pair, base_gpus=[0], draft_gpus=[0]).__enter__()
    assert started == []


def test_a_draft_in_the_base_server_takes_memory_there_too(started, toy_pair):
    with launch_pair(toy_pair, base_gpus=[0], draft_gpus=[0], decode="standalone"):
        pass
    spare = 80 - 48 - 12
    assert started[0][2][2:4] == ["--mem-fraction-static", f"{(44 + spare * 5 / 6) / 80:.4f}"]
    assert "STANDALONE" in started[0][2]
    assert "STANDALONE" not in started[1][2]


def test_a_second_server_that_cannot_start_leaves_the_first_one_stopped(started, toy_pair, monkeypatch):
    begun = []
    real = Server.start

    def start(self):
        if self.spec.role == "base":
            raise LaunchError("port 1 for the base server is taken")
        real(self)
        begun.append(self)

    monkeypatch.setattr(Server, "start", start)
    with pytest.raises(LaunchError, match="is taken"):
        launch_pair(toy_pair).__enter__()
    wait_until(lambda: begun[0].process.poll() is not None)


def test_a_gpu_that_pytorch_does_not_see_is_said_before_anything_is_fetched(monkeypatch, toy_pair):
    monkeypatch.setattr(machine, "broken_gpu", lambda: "the system has an NVIDIA GPU, and ...")
    monkeypatch.setattr(launch, "fetch", lambda *_: pytest.fail("weights were fetched"))
    with pytest.raises(LaunchError, match="the system has an NVIDIA GPU"):
        launch_pair(toy_pair).__enter__()
    findings = [*doctor.examine_device(toy_pair, Wish("draft"), Wish("base"))]
    assert [(finding.verdict, finding.topic) for finding in findings] == [("stop", "GPU")]


@pytest.mark.parametrize(
    ("free", "verdict", "says"),
    [
        (70, "ok", "draft on GPU 0, base on GPU 0"),
        (40, "stop", "toy cannot start: "),
    ],
)
def test_the_doctor_says_where_a_pair_would_go(monkeypatch, gpus, toy_pair, free, verdict, says):
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: type("Cuda", (), {"type": "cuda"}))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 1)
    gpus[:] = [Gpu(0, "Toy", 80 * GB, free * GB)]
    *_, gpu, placement = doctor.examine_device(toy_pair, Wish("draft"), Wish("base"))
    assert gpu.text == f"Toy, {free}.0 of 80.0 GB free"
    assert (placement.verdict, placement.text[: len(says)]) == (verdict, says)
    unknown = PairSpec("x", Model("some/draft"), Model("some/base"))
    *_, placement = doctor.examine_device(unknown, Wish("draft"), Wish("base"))
    assert placement.text.endswith("their sizes are known when the weights are here")
