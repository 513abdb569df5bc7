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

# Words and figures that a reader sees in two pieces. A long name may be broken, behind a mark.
BROKEN = """
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  if (node.parentElement.closest('style, option, svg, code')) continue;
  const words = /\\d{4}-\\d\\d-\\d\\d|[\\p{L}\\p{N}][\\p{L}\\p{N}.,]*/gu;
  for (const word of node.textContent.matchAll(words)) {
    if (word[0].length > 24) continue;
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    const tops = new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => r.top));
    if (tops.size > 1) found.push(word[0]);
  }
}
return found;
"""
# WCAG 2.0 to 2.2, A and AA.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


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
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": scheme})


def overlaps(chrome: webdriver.Chrome) -> tuple[list[str], int]:
    """(pairs of texts that cover each other, how many boxes were compared)."""
    found: Any = chrome.execute_script(OVERLAPS)
    return list(found[0]), int(found[1])


def overflow(chrome: webdriver.Chrome) -> int:
    """By how many pixels the page is wider than the window, or a card's text than the card; 0 is
    right."""
    script = (
        "return Math.max(document.documentElement.scrollWidth - window.innerWidth,"
        " ...[...document.querySelectorAll('.cards div')].map(e => e.scrollWidth - e.clientWidth))"
    )
    return max(0, int(chrome.execute_script(script)))


def broken(chrome: webdriver.Chrome) -> list[str]:
    """Words and figures that are broken inside."""
    return list(chrome.execute_script(BROKEN))


def barriers(chrome: webdriver.Chrome) -> list[str]:
    """What axe-core finds on the page as it is shown: the rule, and an element that breaks it."""
    from importlib.resources import files

    chrome.execute_script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    found: Any = chrome.execute_async_script(
        "axe.run({runOnly: arguments[0]}).then(arguments[1])", RULES
    )
    assert found["passes"], "axe looked at nothing"
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found["violations"]]


def on_paper(chrome: webdriver.Chrome) -> None:
    """The page as it is printed from a dark desktop."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": scheme})


def screenshot(chrome: webdriver.Chrome, path: str) -> None:
    """The whole page, not only what fits the window."""
    import base64
    from pathlib import Path

    taken = chrome.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(base64.b64decode(taken["data"]))
