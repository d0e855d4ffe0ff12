"""Makes the pictures of the page and of a report: docs/page.png, page-phone.png, race.gif and report.png.

The page shows the example that it comes with, a recorded run; the report is of a run in results/. Needs
Chromium, chromedriver, and Selenium:

    python docs/pictures.py
"""

import base64
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from specreason_sgl.display import report
from specreason_sgl.display.page import page
from specreason_sgl.evaluation import Report

DOCS = Path(__file__).parent
RUN = "results/one-at-a-time.jsonl.gz"
SPEED, FRAMES_PER_SECOND = 8, 10  # of the race; 8 times the recorded pace
HOLD = 3.0  # seconds that the last frame stays
ASKED = """
document.getElementById("ask").hidden = false;
document.getElementById("question").value = shown.question;
seek(44);
"""
RACE_ONLY = """
const others = "main > :not(#run), #run > :not(#compare), #controls, #race p, #alone";
for (const node of document.querySelectorAll(others)) {
  node.style.display = "none";
}
document.documentElement.style.scrollbarGutter = "auto";
document.querySelector("main").style.padding = "0";
document.getElementById("compare-title").textContent = document.getElementById("headline").textContent;
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.html")
        file.write_text(page(), encoding="utf-8")
        driver = started()
        try:
            look(driver, file, 920, 1480)
            driver.execute_script(ASKED)
            save(driver, DOCS / "page.png")
            look(driver, file, 390, 900, "dark")
            driver.execute_script("scrollTo(0, document.getElementById('result').offsetTop - 16)")
            save(driver, DOCS / "page-phone.png")
            look(driver, file, 760, 466)
            save_race(driver, DOCS / "race.gif")
            file.write_text(report_page(), encoding="utf-8")
            look(driver, file, 1240, 900)
            save(driver, DOCS / "report.png")
        finally:
            driver.quit()


def report_page() -> str:
    read = Report.read(DOCS.parent / RUN)
    return report.as_html(read.rows, read.groups, [RUN], primary="correct delta=1 window=auto")


def started() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    driver = shutil.which("chromedriver")  # by its path: Selenium would ask the net for one
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def look(driver: webdriver.Chrome, file: Path, width: int, height: int, scheme: str = "light") -> None:
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {
            "name": "prefers-reduced-motion",
            "value": "reduce",
        },  # or a picture could be of the middle of a fade
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(file.as_uri())
    driver.execute_async_script("document.fonts.ready.then(arguments[0])")


def picture(driver: webdriver.Chrome) -> Image.Image:
    data = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def save(driver: webdriver.Chrome, file: Path) -> None:
    picture(driver).quantize(128).save(file, optimize=True)


def save_race(driver: webdriver.Chrome, file: Path) -> None:
    """The race, frame by frame: each shows it at a time of its own, so that none is missed."""
    driver.execute_script(RACE_ONLY)
    seconds = float(driver.execute_script("return document.getElementById('clock').max"))
    step = SPEED / FRAMES_PER_SECOND
    frames = []
    for i in range(int(seconds / step) + 2):
        driver.execute_script("seek(arguments[0])", min(i * step, seconds))
        frames.append(picture(driver))
    palette = frames[len(frames) // 3].quantize(48)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [1000 // FRAMES_PER_SECOND] * len(others) + [int(HOLD * 1000)]
    first.save(file, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    main()
