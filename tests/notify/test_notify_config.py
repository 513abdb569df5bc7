"""[notify]: what is refused, in one line; the command; the page's feed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_notify import Teller, Told, with_notify
from gatepost_policy import config
from gatepost_policy.config import ConfigError
from gatepost_policy.config.settings import Settings
from gatepost_policy.web import app as live

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ('webhook = "http://hooks.example/x"', "webhook", "want \"https://HOST/...\""),
        ('webhook = "http://8.8.8.8/x"', "webhook", "address of your own network"),
        ('webhook = "https://"', "webhook", "want"),
        ('webhook = "https://u:p@hooks.example/"', "webhook", "no user, no password"),
        ('webhook = "https://hooks.example/a b"', "webhook", "without blanks"),
        ('webhook = "https://hooks.example:99999/"', "webhook", "want"),
        ('webhook = "file:///etc/passwd"', "webhook", "want"),
        ('command = "/bin/true"', "command", "want a list"),
        ('command = ["true"]', "command", "by its full path"),
        ('command = ["/bin/true", 1]', "command", "want text in quotes"),
        ('command_events = ["nonsense"]', "command_events", '"trap-hit"'),
        ('mail_to = ["a@b.example, c@d.example"]', "mail_to", "want a mail address"),
        ('mail_to = ["a@b.example\\nBcc: x@y.example"]', "mail_to", "want a mail address"),
        ('mail_to = ["Kari <a@b.example>"]', "mail_to", "want a mail address"),
        ('mail_from = "nobody"', "mail_from", "want a mail address"),
        ('smtp = "unix:/run/x"', "smtp", "want inet:PORT@ADDRESS"),
        ('smtp = "localhost:25"', "smtp", "want inet:PORT@ADDRESS"),
        ('feed = "feed.atom"', "feed", "by its full path"),
        ('page = "abuse.example.org"', "page", "want the page's address"),
        ('digest = "6"', "digest", 'want a time of day in UTC such as "06:00"'),
        ('digest = "24:00"', "digest", "want a time of day"),
        ("gather = 5", "gather", "want a duration with its unit"),
        ('again = "0s"', "again", "want"),
    ],
)  # fmt: skip
def test_one_line_says_what_was_wanted(tmp_path: Path, line: str, key: str, wanted: str) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_text(f"[notify]\n{line}\n")
    with pytest.raises(ConfigError) as error:
        config.load(file)
    said = str(error.value)
    assert f"notify.{key}" in said and wanted in said and "\n" not in said, said


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example/x?y=z", "http://localhost:99/", "http://127.0.0.1/x",
     "http://10.1.2.3:8080/", "http://[fd00::1]/x", "http://[::1]:5/"],
)  # fmt: skip
def test_addresses_that_may_be_told(tmp_path: Path, url: str) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_text(f'[notify]\nwebhook = "{url}"\n')
    assert config.load(file).notify.webhook == url


def written(tmp_path: Path, settings: Settings, text: str) -> Path:
    file = tmp_path / "notify.toml"
    file.write_text(
        f'store.url = "{settings.store.url}"\nstore.journal = "{settings.store.journal}"\n{text}'
    )
    return file


def test_nobody_to_tell_is_said(run: Run) -> None:
    code, said = run("notify", "--once")
    assert code == 2 and "nobody to tell: set notify.command" in said and said.count("\n") == 1


def test_a_webhook_is_not_shown(run: Run, tmp_path: Path, settings: Settings) -> None:
    file = written(tmp_path, settings, 'notify.webhook = "https://hooks.example/secret"\n')
    code, said = run("--config", str(file), "config", "show", "--changed")
    assert code == 0 and "secret" not in said and 'webhook = "(set)"' in said


def test_a_test_every_way(
    engine: Engine, settings: Settings, run: Run, tmp_path: Path, listener: Told
) -> None:
    text = f'[notify]\nwebhook = "{listener.url}"\ncommand = ["/bin/false"]\n'
    code, said = run("--config", str(written(tmp_path, settings, text)), "notify", "--test")
    assert code == 1
    assert said == "command: NOT told: notify.command: false: exit code 1\nwebhook: told\n"
    ((_, _, body),) = listener.requests
    assert json.loads(body)["events"][0]["event"] == "test"


def test_the_service_tells_and_ends(
    engine: Engine, settings: Settings, tmp_path: Path, listener: Told
) -> None:
    """The real command: the first round is the beginning, TERM is the end."""
    out = tmp_path / "feed.atom"
    text = f'[notify]\nwebhook = "{listener.url}"\nfeed = "{out}"\n'
    file = written(tmp_path, settings, text)
    begin = "import sys; from gatepost_milter.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", begin, "--config", str(file), "notify"]
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "milterctl notify ready\n"
        deadline = time.monotonic() + 30
        while not out.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert b"<feed" in out.read_bytes() and out.stat().st_mode & 0o777 == 0o640
    Teller(engine, settings).hit("b@fresh.example")
    once = subprocess.run([*words, "--once"], env=environ, capture_output=True, text=True)
    assert once.returncode == 0, once.stderr
    assert [json.loads(body)["events"][0]["who"] for *_, body in listener.requests] == [
        "fresh.example"
    ]
    assert b"fresh.example" in out.read_bytes()


def test_the_page_has_the_feed(engine: Engine, settings: Settings) -> None:
    one = Teller(engine, with_notify(settings, feed="/nonexistent/x.atom"))
    one.once()
    one.hit("b@fresh.example")
    one.once()
    assert one.log[-1].startswith("error: notify.feed: /nonexistent/x.atom: No such file")
    page = live.create(settings, lambda: engine, hosts=None).test_client()
    answer = page.get("/events.atom")
    assert answer.status_code == 200 and answer.content_type.startswith("application/atom+xml")
    assert b"fresh.example" in answer.data
