"""The site is built without a warning, loads nothing from elsewhere, and says what the code declares."""

import re
import subprocess
import sys

import pytest

import specreason_sgl
from docs import tables
from specreason_sgl import evaluation, verifiers
from specreason_sgl.serving.metrics import Metrics
from tests.docs.pages import PAGES, ROOT

LINK = re.compile(r'(?:\]\(|src=")(?![a-z]+:)([^)"\s]*)')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the site, by their paths; a link or an anchor that leads nowhere is a warning."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")}


def test_no_page_loads_anything_from_another_host(site):
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
    assert {path: urls for path, text in site.items() if (urls := loads.findall(text))} == {}


@pytest.mark.parametrize(
    "package", [specreason_sgl, verifiers, evaluation], ids=lambda package: package.__name__
)
def test_every_public_name_is_in_the_reference(site, package):
    text = "".join(site[f"reference/{page}/index.html"] for page in ("python", "trace", "errors"))
    assert [
        name for name in package.__all__ if not re.search(rf'id="specreason_sgl\.[\w.]*\b{name}"', text)
    ] == [], "add them to docs/reference/python.md"


@pytest.mark.parametrize("name", tables.PAGES)
def test_a_page_made_from_declarations_is_up_to_date(name):
    assert (tables.FOLDER / name).read_text() == tables.PAGES[name](), "make docs-tables"


def test_every_metric_is_named():
    names = re.findall(r"^# TYPE (\w+) ", exposition(), re.MULTILINE)
    page = (ROOT / "docs" / "reference" / "http.md").read_text()
    assert [name for name in names if not name.endswith("_created") and f"`{name}`" not in page] == []


def exposition():
    from prometheus_client import generate_latest

    return generate_latest(Metrics().registry).decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere_in_the_repository(page):
    text = page.read_text()
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        assert (page.parent / path).exists(), link
        heading = re.search(rf"^#+ {anchor.replace('-', '[ -]')}$", text, re.MULTILINE | re.IGNORECASE)
        assert path or heading, link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
