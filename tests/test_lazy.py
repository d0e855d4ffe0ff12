"""What an import says where a package is missing."""

import sys

import pytest

import specreason_sgl.runtime
from specreason_sgl.errors import NotInstalled
from specreason_sgl.lazy import explained, names_from


def test_a_name_that_needs_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path):
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader/__init__.py").touch()
    (tmp_path / "reader/solving.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    get, names = names_from("reader", {"solving": ("solve",)})
    assert "solve" in names()
    with pytest.raises(NotInstalled, match=r"^no_such_package is not installed; .* pip install"):
        get("solve")


def test_a_missing_module_of_an_installed_package_is_a_fault_and_shown_as_such():
    with pytest.raises(ModuleNotFoundError), explained():
        import specreason_sgl.no_such_module  # noqa: F401


def test_a_command_that_needs_a_missing_package_ends_with_one_line(run_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    for name in ("machine", "doctor"):  # imported anew
        monkeypatch.delitem(sys.modules, f"specreason_sgl.runtime.{name}", raising=False)
        monkeypatch.delattr(specreason_sgl.runtime, name, raising=False)
    done = run_command("doctor")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: psutil is not installed; ")
    assert len(done.stderr.splitlines()) == 1
