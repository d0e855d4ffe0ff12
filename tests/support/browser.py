"""Chromium without a window, and the page in it."""

import contextlib
import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.traces import QUESTION
from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
CHROMEDRIVER = shutil.which("chromedriver")
needed = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
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
    """The page of a server (`url`, `key`); at the end: no error in the console, no request to anyone else."""
    view = Page(driver, server)
    view.emulate()
    driver.get_log("browser"), driver.get_log("performance")
    yield view
    assert view.console() == []
    mine = (server.url, "data:", "blob:", "file:")
    assert [url for url in view.requests() if not url.startswith(mine)] == []


class Page:
    """The page in the browser, as its reader sees it."""

    def __init__(self, driver, server):
        self.driver, self.server = driver, server
        self.failures_meant = False

    def open(self, url=None):
        self.driver.get(url or self.server.url)
        if not url and not self.server.key:
            wait_until(lambda: self.all("#model option"))
        return self

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.driver.execute_script(
            "return document.querySelector(arguments[0])?.textContent ?? ''", selector
        )

    def texts(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        return self.driver.execute_script(script, selector)

    def seen(self, selector):
        return any(one.is_displayed() for one in self.all(selector))

    def wait_for(self, selector, text):
        wait_until(lambda: text in self.text(selector))

    def ask(self, question=QUESTION):
        self.one("#question").send_keys(question, Keys.ENTER)
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
        """Errors and warnings, without those the browser writes for a status of 4xx or 5xx that was meant."""
        found = [one for one in self.driver.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]
        return [one for one in found if not (self.failures_meant and one["source"] == "network")]

    def requests(self):
        events = (json.loads(one["message"])["message"] for one in self.driver.get_log("performance"))
        return [
            one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"
        ]
