"""The saved page and the live page: escaped, closed, and readable on a phone and a screen."""

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

import browser
import story
from fix_report import TRAP, Mail, fill
from gatepost_policy import listings
from gatepost_policy.config.settings import Settings, Store
from gatepost_policy.mail.facts import Family, Source
from gatepost_policy.render.html.page import render
from gatepost_policy.report import conditions, history, series
from gatepost_policy.report.overview_values import DualStack
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Host
from gatepost_policy.store import open_engine, reading
from gatepost_policy.web.app import create
from ports import free_port

pytestmark = pytest.mark.slow

NOW = story.START + 200 * story.DAY
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("pages") / "gatepost.sqlite"
    return Settings(store=Store(url=f"sqlite:///{path}"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_engine(settings)
    story.fill(engine, settings)
    yield engine
    engine.dispose()


def page(engine: Engine, settings: Settings, selection: Selection) -> str:
    with reading(engine) as connection:
        report = history.tell(connection, selection, settings, NOW)
        return render(report, series.of(connection, selection, report, NOW), NOW)


def client(engine: Engine, settings: Settings, **options: Any) -> FlaskClient:
    app = create(
        settings, lambda: engine, hosts=frozenset({"localhost"}), clock=lambda: NOW, **options
    )
    return app.test_client()


def test_page_tells_the_story(engine: Engine, settings: Settings) -> None:
    text = page(engine, settings, Selection(sender="slow.example.com"))
    assert "Who is slow.example.com?" in text
    assert "Repeat sender" in text and "always to a trap" in text
    assert text.count('role="img" aria-label="Time line"') == 2  # for a screen, for a phone
    for lane in ("IPv4", "IPv6"):
        assert lane in text


@pytest.mark.parametrize("sender", [None, "example.org", "slow.example.com"])
def test_page_loads_nothing(engine: Engine, settings: Settings, sender: str | None) -> None:
    text = page(engine, settings, Selection(sender=sender))
    # Names of XML vocabularies are no addresses to load from.
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    loads = re.findall(r"(?:src|href)=\"(?!#)([^\"]*)|url\((?!#)([^)]*)|@import|<script", bare)
    assert loads == []


def test_a_claim_is_not_called_proven_and_all_hosts_are_counted(
    engine: Engine, settings: Settings
) -> None:
    with reading(engine) as connection:
        report = history.tell(connection, Selection(), settings, NOW)
    both = tuple(DualStack(f"{sure}.example", sure, 1, 2, 3) for sure in (True, False))
    hosts = tuple(Host(None, f"192.0.2.{n}", "ipv4", 1) for n in range(30))
    text = render(
        replace(
            report, dual_stack=both, summary=replace(report.summary, hosts=hosts), hosts=12_345
        ),
        None,
        NOW,
    )
    rows = re.findall(r"(True|False)\.example.*?data-label=\"proven\">(.*?)<", text)
    assert rows == [("True", "by DKIM"), ("False", "no, a claim")]
    assert "20 of 12345 shown" in text


def test_strangers_are_escaped(engine: Engine, settings: Settings) -> None:
    text = page(engine, settings, Selection(sender="example.org", limit=1000))
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_live_page_has_permalinks_and_filters(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    answer = web.get("/search?kind=sender&q=slow.example.com")
    assert (answer.status_code, answer.location) == (302, "/sender/slow.example.com")
    text = web.get("/sender/slow.example.com").text
    assert "always to a trap" in text and f"/trap/{story.TRAP}" in text
    only = web.get("/sender/slow.example.com?family=ipv6").text
    assert "2001:db8:25::1" in only and "192.0.2.25" not in only
    assert "never-given@example.net" in web.get("/host/2001:db8:25::/64").text
    assert web.get(f"/trap/{story.TRAP}").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/sender/x.example?limit=no", 400, "limit"),
        ("/sender/x.example?family=ipx", 400, "family"),
        ("/sender/x.example?since=yesterday", 400, "want a time"),
        ("/host/nowhere", 400, "want an IP address"),
        ("/search?kind=color&q=red", 400, "want one of sender"),
        ("/nothing", 404, "Not Found"),
        ("/sender/%3Cscript%3Ealert(1)%3C/script%3E", 200, "&lt;script&gt;"),
    ],
)
def test_bad_requests_get_one_line(
    engine: Engine, settings: Settings, path: str, status: int, word: str
) -> None:
    answer = client(engine, settings).get(path)
    assert answer.status_code == status
    assert word in answer.text and "<script>alert" not in answer.text


def test_a_prefix_with_too_many_clients_says_so(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "PREFIXES_MAX", 3)
    web = client(engine, settings)
    answer = web.get("/host/203.0.0.0/8")
    assert answer.status_code == 400
    assert re.search(r"\d+ clients are known in 203.0.0.0/8; ask for a longer prefix", answer.text)
    assert web.get("/host/192.0.2.0/24").status_code == 200


def test_an_address_of_the_network_is_no_sender(engine: Engine, settings: Settings) -> None:
    """Pasted into whatever box, it is looked up as what it is."""
    web = client(engine, settings)
    for text, want in (
        ("192.0.2.25", "/host/192.0.2.25"),
        ("2001:db8:25::/64", "/host/2001:db8:25::/64"),
        ("slow.example.com", "/sender/slow.example.com"),
    ):
        assert web.get("/search", query_string={"q": text}).location == want
        answer = web.get(f"/sender/{text}")
        assert (answer.location or f"/sender/{text}") == want
    assert "6 messages" in web.get("/search?q=slow.example.com", follow_redirects=True).text


def words(text: str) -> str:
    """What a reader sees of a page, without its elements."""
    return re.sub("<[^>]*>", "", text)


def test_filters_stay_in_links_and_are_said(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    text = web.get("/sender/slow.example.com?family=ipv6&since=2026-01-01").text
    assert "only messages received from 2026-01-01 00:00 UTC on, over IPv6. 2" in words(text)
    assert "first of these" in text and "first seen</dt>" not in text
    kept = re.findall(r'<a href="(/(?:host|trap)/[^"]*)"', text)
    assert kept and all("family=ipv6&amp;since=2026-01-01" in link for link in kept)
    assert "192.0.2.25" not in text.split("<h2>Time line")[1].split("<h2>Listings")[0]
    whole = web.get("/sender/slow.example.com").text
    assert "All that is known: 6 messages. As of 2026-07-20 00:00 UTC." in words(whole)
    assert "first seen</dt>" in whole


def test_the_overview_charts_obey_its_filters(engine: Engine, settings: Settings) -> None:
    text = client(engine, settings).get("/?family=ipv6").text
    table = text.split("The figures as a table")[1].split("</table>")[0]
    rows = re.findall(r"<tr><td>.*?</td>" + r'<td class="n">(\d+)</td>' * 8, table)
    assert sum(int(row[0]) for row in rows) == sum(int(row[2]) for row in rows) == 42
    assert {row[1] for row in rows} == {"0"}


def test_saved_page_says_what_it_leaves_out(engine: Engine, settings: Settings) -> None:
    text = page(engine, settings, Selection(sender="slow.example.com", family=Family.IPV6))
    assert "Filtered: only messages over IPv6. 2 messages" in text
    assert "As of 2026-07-20 00:00 UTC" in words(text)
    whole = page(engine, settings, Selection(sender="slow.example.com"))
    assert "All that is known: 6 messages." in whole
    assert "Moved from IPv4 to IPv6 on 2026-05-02." in words(whole)


def test_mail_from_a_log_was_not_judged(any_engine: Engine, any_settings: Settings) -> None:
    """It was delivered, to a trap even; "accept, no bad signal" would be a verdict of ours."""
    mails = [
        Mail("2026-01-01T00:00:00"),
        Mail("2026-01-02T00:00:00", source=Source.MILTER),
    ]
    fill(any_engine, mails, any_settings)
    text = page(any_engine, any_settings, Selection(sender="slow.example"))
    cells = re.findall(r'data-label="decision">(.*?)</td>', text)
    said = [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in cells]
    assert said == ["accept no-bad-signal", "accepted by the MTA from its log, no rule was asked"]


def test_many_recipients_are_folded_and_traps_come_first(
    any_engine: Engine, any_settings: Settings
) -> None:
    to = (*(f"user{n}@example.net" for n in range(119)), TRAP)
    fill(any_engine, [Mail("2026-01-01T00:00:00", to=to)], any_settings)
    text = page(any_engine, any_settings, Selection(sender="slow.example"))
    seen, folded = text.split('data-label="to"')[1].split("<details>")
    assert TRAP in seen and "115 more" in folded
    assert sum(f"user{n}@" in seen for n in range(119)) == 4


def test_headers_close_the_page(engine: Engine, settings: Settings) -> None:
    answer = client(engine, settings).get("/")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_another_hosts_name_is_refused(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    assert web.get("/", headers={"Host": "rebound.example.org"}).status_code == 421
    assert web.get("/", headers={"Host": "localhost"}).status_code == 200


def test_read_only_has_no_action(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    assert web.post("/act", data={"action": "trap", "value": "a@example.net"}).status_code == 404
    assert '<form action="/act"' not in web.get("/sender/slow.example.com").text


def test_actions_want_a_token_and_are_logged(
    engine: Engine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    web = client(engine, settings, actions=True)
    data = {"action": "list", "value": "192.0.2.77", "note": "by\nhand", "sure": "yes"}
    assert web.post("/act", data=data).status_code == 400  # no token
    with reading(engine) as connection:
        assert "192.0.2.77/32" not in str(listings.holding(connection, NOW))
    form = web.get("/host/192.0.2.77").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', form)
    assert token is not None
    with caplog.at_level("INFO", "gatepost.web"):
        answer = web.post("/act", data={**data, "csrf_token": token.group(1)})
    assert answer.status_code == 303
    with reading(engine) as connection:
        assert "192.0.2.77/32" in str(listings.holding(connection, NOW))
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert "192.0.2.77" in caplog.text
    done = web.post(
        "/act", data={"action": "forgive", "value": "192.0.2.77", "csrf_token": token.group(1)}
    )
    assert done.status_code == 303
    with reading(engine) as connection:
        assert "192.0.2.77/32" not in str(listings.holding(connection, NOW))


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser.browser() as found:
        yield found


def look(chrome: Any, url: str, name: str) -> None:
    """Both widths: nothing sticks out, no text covers another; a picture is kept of each."""
    for width in browser.WIDTHS:
        browser.at_width(chrome, width)
        chrome.get(url)
        browser.screenshot(chrome, str(SHOTS / f"{name}-{width}.png"))
        covered, compared = browser.overlaps(chrome)
        assert compared > 20, "too little text was found to say anything"
        assert (name, width, browser.overflow(chrome), covered) == (name, width, 0, [])
    browser.at_width(chrome, 1400, dark=True)
    browser.screenshot(chrome, str(SHOTS / f"{name}-dark.png"))


@pytest.mark.browser
def test_saved_pages_in_a_browser(
    chrome: Any, engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    for name, sender in (("sender", "slow.example.com"), ("overview", None)):
        path = tmp_path / f"{name}.html"
        path.write_text(page(engine, settings, Selection(sender=sender)))
        look(chrome, path.as_uri(), name)


@pytest.mark.browser
def test_the_looks_can_fail(chrome: Any) -> None:
    browser.at_width(chrome, 380)
    chrome.get("data:text/html,<p>one text<p style='margin-top:-25px'>another text")
    assert browser.overlaps(chrome)[0] == ["one text | another text"]
    chrome.get("data:text/html,<meta name=viewport content='width=device-width'>"
               "<p style='width:900px'>wide")  # fmt: skip
    assert browser.overflow(chrome) > 300


@pytest.mark.browser
def test_live_page_in_a_browser(chrome: Any, engine: Engine, settings: Settings) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    from waitress.server import create_server

    port = free_port()
    hosts = frozenset({f"127.0.0.1:{port}"})
    app = create(settings, lambda: engine, hosts=hosts, actions=True, clock=lambda: NOW)
    server = create_server(app, host="127.0.0.1", port=port, asyncore_use_poll=True)
    threading.Thread(target=server.run, daemon=True).start()
    url = f"http://127.0.0.1:{port}"
    look(chrome, url, "live")
    chrome.get(url)
    chrome.find_element(By.NAME, "q").send_keys("slow.example.com")
    chrome.find_element(By.XPATH, "//button[text()='Search']").click()
    wait = WebDriverWait(chrome, 20)
    wait.until(lambda c: c.current_url == f"{url}/sender/slow.example.com")
    chrome.find_element(By.LINK_TEXT, "192.0.2.25").click()
    wait.until(lambda c: c.current_url == f"{url}/host/192.0.2.25")
    chrome.find_element(By.XPATH, "//button[text()='List ...']").click()
    wait.until(lambda c: "List 192.0.2.25/32?" in c.page_source)
    chrome.find_element(By.XPATH, "//button[text()='List']").click()
    wait.until(lambda c: "is listed for 24 hours" in c.page_source)
    chrome.find_element(By.XPATH, "//button[text()='Forgive']").click()
    wait.until(lambda c: "lifted" in c.page_source)
    look(chrome, f"{url}/host/192.0.2.25", "live-host")
    server.close()
