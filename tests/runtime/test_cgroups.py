"""The memory that a container leaves."""

import math

import pytest

from specreason_sgl.runtime import cgroups, machine

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file")
V2 = ("memory.max", "memory.current", "active_file", "inactive_file")


@pytest.mark.parametrize(
    ("own", "group", "files", "left"),
    [
        ("0::/a/b", "a", V2, 700),
        ("0::/unseen/here", "", V2, 700),
        ("4:cpu,memory:/a/b\n0::/", "memory/a/b", V1, 700),
        ("0::/a", "b", V2, math.inf),
    ],
)
def test_the_memory_of_a_container_is_what_its_limit_leaves(tmp_path, monkeypatch, own, group, files, left):
    limit, usage, active, inactive = files
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text("1000\n")
    (folder / usage).write_text("600\n")
    (folder / "memory.stat").write_text(f"anon 300\n{active} 100\n{inactive} 200\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    assert cgroups.memory_left() == left
    assert machine.available_memory() <= left
    (folder / limit).write_text("max\n")
    assert machine.available_memory() > 1000
