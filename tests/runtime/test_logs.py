"""Servers' logs: bounded, private, and read from their end."""

import os
import time
import tracemalloc

import pytest

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import logs, supervise
from specreason_sgl.runtime.logs import last_error
from specreason_sgl.runtime.server import Server, ServerSpec


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path))
    return tmp_path


def test_a_log_that_is_full_becomes_an_older_one(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "LOG_LIMIT", 1000)
    log = tmp_path / "some.log"
    for number in range(100):
        supervise.append(str(log), b"%099d\n" % number)
    files = [tmp_path / "some.log.1", log]
    lines = [int(line) for file in files for line in file.read_text().splitlines()]
    assert lines == [*range(100 - len(lines), 100)]
    assert 1000 < sum(file.stat().st_size for file in files) <= 2200


def test_only_the_end_of_a_log_is_read(tmp_path):
    log = tmp_path / "some.log"
    with open(log, "wb") as file:
        file.truncate(300_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\nValueError: before\nstart\nValueError: since\nand more\n")
    tracemalloc.start()
    assert last_error(log, "start") == "ValueError: since"
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert last_error(tmp_path / "none.log", "start") == "nothing in its log"


def test_logs_of_the_latest_launches_are_kept(cache, monkeypatch):
    monkeypatch.setattr(logs, "KEPT", 3)
    made = [logs.new_log("base") for _ in range(5)]
    for age, path in enumerate(reversed(made)):
        if path.exists():
            os.utime(path, (time.time() - age, time.time() - age))
    latest = logs.new_log("base")
    assert set((cache / "logs").iterdir()) == {*made[-2:], latest}


def test_logs_that_cannot_be_written_are_one_clear_error(cache):
    (cache / "logs").write_text("a file")
    with pytest.raises(LaunchError, match=r"log folder .* cannot be written .*SPECREASON_SGL_CACHE"):
        Server(ServerSpec("base", "some/model"))
