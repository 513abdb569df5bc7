"""The pages as people meet them: every width, paper, a screen reader's rules, and by keyboard."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import browser
import story
from gatepost_policy.config.settings import Sender, Settings, Store
from gatepost_policy.store import open_engine
from gatepost_policy.web.app import create
from ports import free_port

pytestmark = pytest.mark.browser
NOW = story.START + 200 * story.DAY
SLOW = "slow.example.com"
PAGES = {
    "overview": "/",
    "sender": f"/sender/{SLOW}",
    "host": "/host/192.0.2.25",
    "trap": f"/trap/{story.TRAP}",
    "message": "/message/1",
    "compare": f"/compare?a={SLOW}&b=letters.example",
    "networks": "/prefix",
    "evidence": f"/evidence/sender/{SLOW}",
    "refused": "/host/x",
}
MOST = 30  # keystrokes for one task


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from waitress.server import create_server

    path: Path = tmp_path_factory.mktemp("browser") / "gatepost.sqlite"
    settings = Settings(
        store=Store(url=f"sqlite:///{path}"), sender=Sender(own_domains=("home.example",))
    )
    engine = open_engine(settings)
    story.fill(engine, settings)
    port = free_port()
    hosts = frozenset({f"127.0.0.1:{port}"})
    app = create(settings, lambda: engine, hosts=hosts, actions=True, clock=lambda: NOW)
    server = create_server(app, host="127.0.0.1", port=port, asyncore_use_poll=True)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"http://127.0.0.1:{port}"
    server.close()
    engine.dispose()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser.browser() as found:
        yield found


def test_no_barriers_and_nothing_broken(chrome: Any, url: str) -> None:
    """One load a page; the device changes under it, as when a window is drawn larger."""
    for name, path in PAGES.items():
        browser.at_width(chrome, 380)
        chrome.get(url + path)
        for width in (380, 768, 1400, 2560):
            browser.at_width(chrome, width, dark=width == 1400)
            covered, _ = browser.overlaps(chrome)
            seen = (name, width, browser.overflow(chrome), covered, browser.broken(chrome))
            assert seen == (name, width, 0, [], [])
            # In the dark the colours are others, on every page the same.
            if width == 380 or (width == 1400 and name in ("sender", "evidence")):
                assert (name, width, browser.barriers(chrome)) == (name, width, [])
        browser.on_paper(chrome)
        assert (name, "paper", browser.overlaps(chrome)[0]) == (name, "paper", [])
        ink = chrome.execute_script("return getComputedStyle(document.body).color")
        assert sum(int(part) for part in ink[4:-1].split(",")) < 200, "pale print"


def test_the_looks_can_fail(chrome: Any) -> None:
    browser.at_width(chrome, 380)
    chrome.get("data:text/html,<html><body><p style='width:5em'>2026-05-02</p>")
    assert browser.broken(chrome) == ["2026-05-02"]
    chrome.get("data:text/html,<html><body><p style='width:3em;overflow-wrap:anywhere'>unbreakable"
               "<p style='color:rgb(210,210,210)'>pale<img src=x>")  # fmt: skip
    assert browser.broken(chrome) == ["unbreakable"]
    found = " ".join(browser.barriers(chrome))
    assert "color-contrast" in found and "image-alt" in found


class Hands:
    """A keyboard, and how often it was pressed."""

    def __init__(self, chrome: Any) -> None:
        self.chrome, self.count = chrome, 0

    def press(self, *keys: str) -> "Hands":
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.chrome, duration=0).send_keys(key).perform()
            self.count += 1
        return self

    def to(self, label: str) -> "Hands":
        """Tab on until what has the focus is named so."""
        from selenium.webdriver.common.keys import Keys

        script = (
            "const a = document.activeElement;"
            "return (a.name === 'q' || a.tagName === 'SELECT' ? a.name : a.innerText || a.name)"
        )
        while self.count < MOST:
            self.press(Keys.TAB)
            if str(self.chrome.execute_script(script)).strip().startswith(label):
                return self
        raise AssertionError(f"{label}: not within {MOST} keystrokes")

    def enter(self) -> None:
        from selenium.webdriver.common.keys import Keys

        self.press(Keys.ENTER)


def test_an_abuse_desk_by_keyboard_alone(chrome: Any, url: str, tmp_path: Path) -> None:
    """Ten tasks, each begun where a colleague's link leads; docs/report.md has the commands."""
    from selenium.webdriver.support.ui import WebDriverWait

    sender = f"/sender/{SLOW}"

    def who(hands: Hands) -> None:
        hands.to("q").press(*SLOW).enter()

    def since_when(hands: Hands) -> None:
        hands.to("Day and hour").enter()

    def why(hands: Hands) -> None:
        hands.to("Messages").enter()
        hands.to("2026-").enter()

    def what_else(hands: Hands) -> None:
        hands.to("Messages").enter()
        hands.to(story.TRAP).enter()

    def list_it(hands: Hands) -> None:
        hands.to("List ...").enter()
        WebDriverWait(chrome, 20).until(lambda c: f"List {SLOW}?" in c.title)
        hands.to("List").enter()

    def keep_note(hands: Hands) -> None:
        hands.to("note").press(*"told them").to("Keep note").enter()

    def only_failures(hands: Hands) -> None:
        hands.to("Filter").enter()
        hands.to("dkim").press("f").to("Filter").enter()

    def tell_provider(hands: Hands) -> None:
        hands.to("Abuse report").enter()
        WebDriverWait(chrome, 20).until(lambda c: "Abuse report on" in c.title)
        hands.to("Save as XARF").enter()

    tasks: list[tuple[str, str, Callable[[Hands], None], Callable[[Any], object]]] = [
        ("who is it", "/", who, lambda c: f"Who is {SLOW}?" in c.title),
        ("since when", sender, since_when, lambda c: c.current_url.endswith("#hours")
         and "first seen" in c.page_source),
        ("why refused", sender, why, lambda c: "/message/" in c.current_url),
        ("what else did it hit", sender, what_else, lambda c: "Who found it" in c.page_source),
        ("list it", sender, list_it, lambda c: "is listed" in c.page_source),
        ("undo", sender, lambda hands: hands.to("Undo").enter(),
         lambda c: "undone" in c.page_source),
        ("keep a note", sender, keep_note, lambda c: "Note: told them" in c.page_source),
        ("only its failures", sender, only_failures, lambda c: "dkim=fail" in c.current_url),
        ("its neighbours", sender, lambda hands: hands.to("Networks").enter(),
         lambda c: c.current_url.endswith("/prefix")),
        ("tell its provider", sender, tell_provider,
         lambda c: (tmp_path / "abuse-report.json").exists()),
    ]  # fmt: skip
    chrome.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    browser.at_width(chrome, 1400)
    counted = {}
    for name, start, do, done in tasks:
        chrome.get(url + start)
        hands = Hands(chrome)
        do(hands)
        WebDriverWait(chrome, 20).until(done, f"{name}: {chrome.current_url}")
        counted[name] = hands.count
    assert len(counted) == 10 and max(counted.values()) <= MOST, counted
    print(counted)
