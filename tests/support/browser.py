"""A headless Chromium, and the page in it as its reader sees it."""

import contextlib
import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.traces import QUESTION
from tests.support.waiting import wait_until

PROGRAMS = (
    "chromium", "chromium-browser", "google-chrome", "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = [name for name, path in (("Chromium", CHROMIUM), ("chromedriver", CHROMEDRIVER)) if not path]
needed = pytest.mark.skipif(
    bool(MISSING),
    reason=f"{' and '.join(MISSING)} missing. Debian: sudo apt-get install chromium chromium-driver; "
    "Ubuntu: sudo apt-get install chromium-browser chromium-chromedriver; "
    "macOS: brew install --cask google-chrome chromedriver",
)


@contextlib.contextmanager
def started(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.downloads = downloads
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def watched(driver, server):
    """The page of a server (`url`, `key`); checks at the end that its console has no errors and that it has
    sent no request to another host."""
    view = Page(driver, server)
    view.emulate()
    driver.get_log("browser"), driver.get_log("performance")
    yield view
    assert view.console() == []
    allowed = (server.url, "data:", "blob:", "file:")
    assert [url for url in view.requests() if not url.startswith(allowed)] == []


class Page:
    """The page in the browser, as its reader sees it."""

    def __init__(self, driver, server):
        self.driver, self.server = driver, server
        self.failures_meant = False

    def open(self, url=None):
        self.driver.get(url or self.server.url)
        self.driver.execute_script("document.getElementById('advanced').open = true")
        if not url and not self.server.key:
            wait_until(lambda: self.all("#model option"))
        return self

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def first(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return next(iter(self.texts(selector)), "")

    def texts(self, selector):
        """Texts as they were written: formulas by their source."""
        script = """return [...document.querySelectorAll(arguments[0])].map((node) => {
            const copy = node.cloneNode(true);
            for (const formula of copy.querySelectorAll(".math")) formula.replaceWith(formula.dataset.source);
            return copy.textContent;
        })"""
        return self.driver.execute_script(script, selector)

    def seen(self, selector):
        return any(node.is_displayed() for node in self.all(selector))

    def wait_for(self, selector, text):
        wait_until(lambda: text in self.text(selector))

    def downloaded(self, name):
        """The path of a saved file, once it is there: Chromium makes an empty one first."""
        file = self.driver.downloads / name
        wait_until(lambda: file.exists() and file.stat().st_size)
        return file

    def ask(self, question=QUESTION):
        self.first("#question").send_keys(question, Keys.ENTER)
        return self

    def ask_and_wait(self):
        self.ask()
        self.wait_for("#status", "Done")
        return self

    def focused(self):
        return self.driver.switch_to.active_element.get_attribute("id")

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def emulate(self, width=1100, scheme="light"):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def console(self):
        """Errors and warnings; without failed requests where the test means them to fail."""
        entries = [
            entry for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]
        return [entry for entry in entries if not (self.failures_meant and entry["source"] == "network")]

    def requests(self):
        """The URLs that the page has asked for."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (event for event in events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]
