"""The views of a report; that the page is whole."""

import json

import pytest

from specreason_sgl.display.report import as_html
from specreason_sgl.evaluation.groups import load
from specreason_sgl.evaluation.report import figures
from specreason_sgl.evaluation.settings import expand
from tests.support import browser
from tests.support.evaluation_files import KNOBS, sample, trace, write, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run.jsonl")


def test_scores_are_drawn_only_where_there_are_some(tmp_path):
    samples = [sample(0, 0, "pipelined", True, trace("pipelined", 2, "cc"))]
    groups = load([write(tmp_path / "run.jsonl", expand(("pipelined",), KNOBS), samples)])
    page = as_html(figures(groups), groups, ["x"])
    assert "Share of steps kept, by position" in page
    assert "Scores of drafted steps" not in page


@browser.needed
def test_the_page_loads_nothing_and_shows_table_and_pictures(run, tmp_path):
    page = tmp_path / "report.html"
    groups = load([run])
    page.write_text(as_html(figures(groups), groups, ["<run>"]))
    with browser.started(tmp_path) as driver:
        driver.get(page.as_uri())
        heights = driver.execute_script("return [...document.images].map(image => image.naturalHeight)")
        script = "return [...document.querySelectorAll('td')].map(cell => cell.innerText)"
        cells = driver.execute_script(script)
        title = driver.execute_script("return document.querySelector('header').innerText")
        assert driver.get_log("browser") == []
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [event["params"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in requests]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert len(heights) == 4
    assert min(heights) > 100
    assert {"base", "draft", "pipelined", "2.67"} <= set(cells)
    assert title == "specreason-sgl report of <run>"


def test_pictures_are_drawn_of_models_alone_too(tmp_path):
    path = write(
        tmp_path / "x.jsonl", expand(("base",), KNOBS), [sample(0, 0, "base", True, trace("base", 3))]
    )
    groups = load([path])
    assert as_html(figures(groups), groups, ["x"]).count("data:image/png") == 2
