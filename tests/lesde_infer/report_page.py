"""Pages as tests read them, and as a browser shows them."""

import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
from matplotlib.image import imread

CHROMIUM = shutil.which("chromium")
HOSTILE = "<script>alert('x')</script>&\"><img src=http://example.org/x>"


class Page(HTMLParser):
    """Tags and visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "style":
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def opens_without_complaint(page, tmp_path, width):
    """Open a page in a browser of some width, and see that it complains of nothing and shows ink on a page."""
    picture = tmp_path / "page.png"
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            f"--window-size={width},3000",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in result.stderr
    pixels = imread(picture)
    assert pixels.shape[:2] == (3000, width)
    assert 0.02 < np.mean(np.any(pixels[:, :, :3] < 0.6, axis=2)) < 0.5  # dark ink on a light page
