"""Which GPUs the models get, and their shares of memory."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from specreason_sgl.errors import ConfigError, LaunchError
from specreason_sgl.runtime import doctor, launch, machine, pairs, placement
from specreason_sgl.runtime.launch import launch_pair
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.pairs import Model, PairSpec
from specreason_sgl.runtime.placement import Share, memory_flags, place, share_gpus
from specreason_sgl.runtime.server import Server, ServerSpec
from tests.support.waiting import wait_until

GB = 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs of 80 GB, of which a test can change what is free."""
    available = [Gpu(0, "Toy", 80 * GB, 80 * GB), Gpu(1, "Toy", 80 * GB, 78 * GB)]
    monkeypatch.setattr(machine, "gpus", lambda: list(available))
    return available


def model(folder, weights=0, layers=0, **config):
    """A folder with so many bytes of weights (a file with a hole) and a config.json."""
    folder.mkdir(parents=True)
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(weights)
    if layers:
        config |= {"num_hidden_layers": layers, "num_attention_heads": 16, "hidden_size": 2048}
        config["num_key_value_heads"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def pair(tmp_path):
    """A draft of 4 GB and a base of 40 GB, which takes four times as much of KV cache a token."""
    draft = model(tmp_path / "small", 4 * GB, layers=16)
    base = model(tmp_path / "big", 40 * GB, layers=64)
    return PairSpec("toy", Model(str(draft)), Model(str(base)))


@pytest.mark.parametrize(
    ("draft", "base", "colocate", "placed"),
    [
        ((1,), (0,), False, ((1,), (0,))),
        ((), (1,), False, ((0,), (1,))),
        ((0,), (), False, ((0,), (1,))),
        ((), (), True, ((0,), (0,))),
        ((), (1, 0), True, ((1, 0), (1, 0))),
        ((1,), (), True, ((1,), (1,))),
        ((1,), (1,), True, ((1,), (1,))),
    ],
)
def test_models_go_where_they_are_told(gpus, draft, base, colocate, placed):
    assert place(draft, base, colocate) == placed


@pytest.mark.parametrize(
    ("draft", "base", "colocate", "says"),
    [
        ((2,), (0,), False, "--draft-gpus: there is no GPU 2; there are 0, 1"),
        ((), (-1, 7), False, "--base-gpus: there is no GPU -1, 7; there are 0, 1"),
        ((), (1, 1), False, "--base-gpus names a GPU twice: 1, 1"),
        ((0,), (0, 1), False, "GPU 0 is given to both models: choose another, or add --colocate"),
        ((), (0, 1), False, "the base takes every GPU and the draft needs one: add --colocate"),
        ((0, 1), (), False, "the draft takes every GPU and the base needs one: add --colocate"),
        ((0,), (1,), True, "with --colocate both models must be on the same GPUs, got 0 and 1"),
    ],
)
def test_placements_that_cannot_be_are_refused(gpus, draft, base, colocate, says):
    with pytest.raises(ConfigError) as raised:
        place(draft, base, colocate)
    assert str(raised.value) == says


@pytest.mark.parametrize("wish", [{"draft_gpus": [0]}, {"base_gpus": [0]}, {"colocate": True}])
def test_without_a_gpu_none_can_be_chosen_and_nothing_starts(monkeypatch, pair, wish):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(launch, "fetch", lambda *_: pytest.fail("weights were fetched"))
    with pytest.raises(ConfigError, match="--colocate need a CUDA GPU, and there is none"):
        launch_pair(pair, **wish).__enter__()


@pytest.mark.parametrize(("count", "placed"), [(0, ((), ())), (1, ((), ())), (2, ((1,), (0,)))])
def test_with_no_wish_the_models_are_apart_where_they_can_be(monkeypatch, count, placed):
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr(machine, "gpus", lambda: pytest.fail("this takes seconds"))
    assert place((), (), False) == placed


def test_without_cuda_there_are_no_gpus_and_no_process_is_asked(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a process was started"))
    assert machine.gpus() == []


CUDA = """
def device_count(): return 2
def mem_get_info(index): return 70 + index, 80
def get_device_name(index): return f"Toy {index}"
"""


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """The file that is `torch.cuda` to child processes; in this process, asking fails."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "cuda.py").write_text(CUDA)
    (package / "__init__.py").write_text("from torch import cuda")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name in ("mem_get_info", "get_device_name"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_: pytest.fail("this would make a CUDA context"))
    return package / "cuda.py"


def test_gpu_facts_are_read_in_a_process_of_their_own(driver):
    assert machine.gpus() == [Gpu(0, "Toy 0", 80, 70), Gpu(1, "Toy 1", 80, 71)]


def test_a_driver_that_fails_is_named(driver):
    driver.write_text(CUDA.replace("return 70 + index, 80", "raise RuntimeError('no driver')"))
    with pytest.raises(LaunchError, match="GPUs' memory cannot be read: RuntimeError: no driver"):
        machine.gpus()


def test_the_spare_memory_is_split_so_that_both_hold_as_many_tokens(gpus, pair):
    draft, base = share_gpus([[Path(pair.draft.repo)], [Path(pair.base.repo)]], [0])
    reserve = 6 * GB  # 2 GB and 5 % of 80
    spare = 80 * GB - 44 * GB - 2 * reserve
    assert draft == Share(4 * GB, spare // 5, reserve)
    assert base == Share(40 * GB, spare * 4 // 5, reserve)


def test_tensor_parallel_servers_share_each_gpu_and_the_fullest_one_counts(gpus, pair):
    draft, base = share_gpus([[Path(pair.draft.repo)], [Path(pair.base.repo)]], [0, 1])
    assert (draft.weights, base.weights) == (2 * GB, 20 * GB)
    assert draft.kv_cache + base.kv_cache == pytest.approx(78 * GB - 22 * GB - 12 * GB)


def test_without_known_sizes_of_tokens_the_weights_decide(gpus, tmp_path):
    draft, base = model(tmp_path / "a", 10 * GB, layers=4, kv_lora_rank=512), model(tmp_path / "b", 30 * GB)
    shares = share_gpus([[draft], [base]], [0])
    assert [share.kv_cache for share in shares] == [7 * GB, 21 * GB]


def test_models_that_do_not_fit_are_refused_with_what_is_needed(gpus, pair):
    gpus[0] = Gpu(0, "Toy", 80 * GB, 50 * GB)
    with pytest.raises(LaunchError) as raised:
        share_gpus([[Path(pair.draft.repo)], [Path(pair.base.repo)]], [0])
    # weights, twice 6 GB, and 16384 tokens of 16 and of 64 layers: 2 * 8 heads * 128 * 2 bytes a layer
    needed = 44 * GB + 12 * GB + 16384 * 80 * 4096
    assert str(raised.value) == (
        f"the two models need about {needed / GB:.1f} GB of GPU 0 together (weights 44.0 GB) and 50.0 GB are "
        "free: use more GPUs, or a smaller pair"
    )


def test_a_model_of_unknown_size_cannot_be_placed_with_another(gpus, tmp_path):
    with pytest.raises(LaunchError, match=r"no \*\.safetensors .* give --mem-fraction-static for both"):
        share_gpus([[model(tmp_path / "a")], [model(tmp_path / "b", GB)]], [0])


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
    monkeypatch.setattr(launch, "uses_cpu_platform", lambda: False)
    monkeypatch.setattr(machine, "uses_cpu_platform", lambda: False)
    return commands


def without_port(started):
    return [(role, gpus, flags[2:]) for role, gpus, flags in started]


def test_apart_each_server_gets_its_gpus(started, pair):
    lines = []
    flags = ["--enable-metrics"]
    with launch_pair(pair, draft_gpus=[1], base_gpus=[0], base_args=flags, status=lines.append) as both:
        assert (both.draft.spec.role, both.base.spec.role) == ("draft", "base")
    assert without_port(started) == [("draft", "1", []), ("base", "0", flags)]
    assert lines[-1] == "both servers are ready"


def test_several_gpus_are_tensor_parallel(started, pair, gpus):
    gpus.append(Gpu(2, "Toy", 80 * GB, 80 * GB))
    with launch_pair(pair, base_gpus=[0, 2]):
        pass
    assert without_port(started) == [("draft", "1", []), ("base", "0,2", ["--tensor-parallel-size", "2"])]


def test_together_the_base_starts_first_and_the_draft_gets_its_share_of_the_rest(started, pair):
    lines = []
    with launch_pair(pair, colocate=True, status=lines.append) as both:
        assert (both.draft.spec.role, both.base.spec.role) == ("draft", "base")
    spare = 80 - 44 - 12
    base = f"{(40 + spare * 0.8) / 80:.4f}"
    draft = f"{(4 + spare * 0.2) / 20:.4f}"
    assert without_port(started) == [
        ("base", "0", ["--mem-fraction-static", base]),
        ("draft", "0", ["--mem-fraction-static", draft]),
    ]
    assert lines.index("the base server is ready") < lines.index("both servers are ready")


def test_the_users_own_fractions_win(started, pair, gpus):
    with launch_pair(pair, colocate=True, draft_args=["--mem-fraction-static=0.5"]):
        pass
    assert [flags for _, _, flags in without_port(started)] == [
        ["--mem-fraction-static", "0.7400"],
        ["--mem-fraction-static=0.5"],
    ]
    started.clear()
    gpus[0] = Gpu(0, "Toy", 80 * GB, 1 * GB)  # nothing fits, which is the user's affair now
    fraction = ["--mem-fraction-static", "0.3"]
    with launch_pair(pair, colocate=True, draft_args=fraction, base_args=fraction):
        pass
    assert [flags for _, _, flags in without_port(started)] == [fraction, fraction]


def test_what_does_not_fit_together_is_said_before_anything_starts(started, pair, gpus):
    gpus[0] = Gpu(0, "Toy", 80 * GB, 40 * GB)
    with pytest.raises(LaunchError, match="GB of GPU 0 together"):
        launch_pair(pair, colocate=True).__enter__()
    assert started == []


def test_a_draft_in_the_base_server_takes_memory_there_too(started, pair):
    with launch_pair(pair, colocate=True, decode="standalone"):
        pass
    spare = 80 - 48 - 12
    assert started[0][2][2:4] == ["--mem-fraction-static", f"{(44 + spare * 5 / 6) / 80:.4f}"]
    assert "STANDALONE" in started[0][2]
    assert "STANDALONE" not in started[1][2]


def test_a_second_server_that_cannot_start_leaves_the_first_one_stopped(started, pair, monkeypatch):
    begun = []
    real = Server.start

    def start(self):
        if self.spec.role == "base":
            raise LaunchError("port 1 for the base server is taken")
        real(self)
        begun.append(self)

    monkeypatch.setattr(Server, "start", start)
    with pytest.raises(LaunchError, match="is taken"):
        launch_pair(pair).__enter__()
    wait_until(lambda: begun[0].process.poll() is not None)


def test_gpus_are_numbered_among_those_that_this_process_sees(monkeypatch):
    spec = ServerSpec("base", "m", gpus=(1, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert spec.environment()["CUDA_VISIBLE_DEVICES"] == "GPU-7,4"


def test_the_doctor_says_what_fits_on_each_gpu(gpus, monkeypatch):
    monkeypatch.setattr(machine, "has_accelerator", lambda: True)
    accelerator = SimpleNamespace(type="cuda")
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: accelerator)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    gpus[1] = Gpu(1, "Toy", 80 * GB, 3 * GB)
    mini = pairs.get_pair("mini")
    texts = [finding.text for finding in doctor.examine_device(mini)]
    needed = (494_032_768 + 1_543_714_304) * 2 / GB + 2 + 12
    assert texts == [
        "2 x cuda",
        f"Toy, 80.0 of 80.0 GB free; mini fits with --colocate, which takes {needed:.1f} GB or more",
        f"Toy, 3.0 of 80.0 GB free; mini does not fit with --colocate, which takes {needed:.1f} GB or more",
    ]
    assert placement.memory_together([Model("some/model")], gpus[0]) == 0
    monkeypatch.setattr(machine, "gpus", lambda: (_ for _ in ()).throw(LaunchError("no driver")))
    assert [finding.text for finding in doctor.examine_device(mini)] == ["2 x cuda", "no driver"]
