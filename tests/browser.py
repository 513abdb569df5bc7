"""A real browser for the pages: headless Chromium, driven over WebDriver, no network.

`overlaps` and `overflow` look at what a person would trip over: text on text, and a page that
scrolls sideways.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

import rings

WIDTHS = (380, 1400)

# Every visible piece of text with its boxes; two pieces may touch, not cover each other.
OVERLAPS = """
const boxes = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  if (!node.textContent.trim() || node.parentElement.closest('style, option, svg title')) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const r of range.getClientRects())
    if (r.width > 1 && r.height > 1) boxes.push([r, node.textContent.trim().slice(0, 40), node]);
}
const found = [];
for (let i = 0; i < boxes.length; i++)
  for (let j = i + 1; j < boxes.length; j++) {
    const [a, x, n] = boxes[i], [b, y, m] = boxes[j];
    if (n === m) continue;
    const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (w > 1.5 && h > 3) found.push(x + ' | ' + y);
  }
return [found, boxes.length];
"""


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile; ended at the end."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        rings.missing("browser", "chromium and chromium-driver are not installed")
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = program
        for argument in (
            "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
            "disable-background-networking", "disable-component-update", "disable-sync",
            "disable-dev-shm-usage", "force-device-scale-factor=1", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{argument}")
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


def at_width(chrome: webdriver.Chrome, width: int, height: int = 900, dark: bool = False) -> None:
    """The page as a device of this many CSS pixels shows it."""
    chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def overlaps(chrome: webdriver.Chrome) -> tuple[list[str], int]:
    """(pairs of texts that cover each other, how many boxes were compared)."""
    found: Any = chrome.execute_script(OVERLAPS)
    return list(found[0]), int(found[1])


def overflow(chrome: webdriver.Chrome) -> int:
    """By how many pixels the page is wider than the window; 0 is right."""
    script = "return document.documentElement.scrollWidth - window.innerWidth"
    return max(0, int(chrome.execute_script(script)))


def screenshot(chrome: webdriver.Chrome, path: str) -> None:
    """The whole page, not only what fits the window."""
    import base64
    from pathlib import Path

    taken = chrome.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(base64.b64decode(taken["data"]))
