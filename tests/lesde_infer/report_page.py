"""Pages as tests read them, and as a browser shows them."""

import base64
import io
import shutil
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from selenium import webdriver

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HOSTILE = "<script>alert('x')</script>&\"><img src=http://example.org/x>"


class Page(HTMLParser):
    """Tags and visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def needs_browser():
    """Skip where Chromium or its driver is missing."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")


@contextmanager
def opened(page, folder, width, *, dark=False):
    """Open a page in Chromium, in a window of some width, without a network."""
    needs_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "hide-scrollbars",
        f"user-data-dir={folder / 'profile'}",
        *(["force-dark-mode", "blink-settings=preferredColorScheme=0"] if dark else []),
    ):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(page.as_uri())
        yield browser
    finally:
        browser.quit()


def opens_without_complaint(page, folder, width):
    """Open a page: nothing is complained of, every picture is there, and it is no wider than its window."""
    with opened(page, folder, width) as browser:
        assert browser.get_log("browser") == []
        widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
        assert all(widths)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        ink = np.array(imread(io.BytesIO(base64.b64decode(whole_picture(browser)))))[:, :, :3]
        assert ink.shape[1] == width
        assert 0.005 < np.mean(np.any(ink < 0.6, axis=2)) < 0.5  # dark ink on a light page


def whole_picture(browser):
    """Return a picture of all of a page, encoded."""
    options = {"format": "png", "captureBeyondViewport": True}
    return browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
