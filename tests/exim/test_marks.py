"""Exim tells the policy service what a header says that a message is, as the milter reads it."""

import socketserver
import threading
from collections.abc import Iterator

import pytest

import mta_unpack
from exim_instance import EximInstance
from gatepost_policy.mail import marks

pytestmark = [pytest.mark.exim, pytest.mark.timeout(200)]

HEADERS = (
    "X-Nothing: x\n",
    "List-Id: <chat.club.example>\n",
    "List-Post: <mailto:chat@club.example>\n",
    "List-Post: NO\n",
    "Mailing-List: contact chat-help@club.example\n",
    "Precedence: List\nX-BeenThere: chat@club.example\n",
    "Precedence: bulk\nAuto-Submitted: no\n",
    "In-Reply-To: <1@a.example>\nAuto-Submitted: auto-replied\n",
    "References:\n <1@a.example>\nX-Autoreply: yes\nPrecedence: auto_reply\n",
    "Thread-Index: AdohUA8OAAAAAQIDBAUGBwgJCgsMDQ==\n",
    "Thread-Index: AdohUA8OAAAAAQIDBAUGBwgJCgsM\n DQAAAAAA\n",
    "Content-Type: multipart/report; report-type=delivery-status; boundary=b\nList-Id: <x.y>\n",
    'Content-Type: text/calendar; charset=utf-8;\n\tmethod="REPLY"\n',
    "Content-Type: text/calendar; method=REQUEST\n",
    # A blank before the colon hides nothing (RFC 5322 4.5); a fold does not end a field.
    "In-Reply-To : <1@a.example>\nPrecedence\t: list\n",
    "References\t :\n <1@a.example>\nAuto-Submitted :\n auto-replied\n",
    "List-Post :\n <mailto:chat@club.example>\nContent-Type : multipart/report; boundary=b\n",
    "List-Post: NO\nX-Other: <x>\nThread-Index: short\nX-L: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    "Thread-Index :\n AdohUA8OAAAAAQID\n\tBAUGBwgJCgsM\n DQAAAAAA\n",
    "Auto-Submitted:\nX-Other: yes\nPrecedence:\nlist: x\nX-Loop-Not: x\n",
    'Content-Type: text/calendar;\n charset=utf-8\nX-Method: ; method="REPLY"\n',
    "Precedence: auto-reply \nAuto-Submitted: NO ; x\n",
    # Each field that the milter knows, so that the two lists cannot part.
    *(f"{name}: yes\n" for name in (*marks.OF_LISTS, *marks.OF_ROBOTS, marks.FAILED)),
)


class Asked(socketserver.ThreadingTCPServer):
    """Takes every question and has no opinion."""

    daemon_threads = True
    lines: list[bytes]


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.server.lines.append(line)  # type: ignore[attr-defined]
            self.wfile.write(b"OK\n")


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with Asked(("127.0.0.1", 0), _Handler) as server:
        server.lines = []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_the_marks_are_the_milters(exim_programs: mta_unpack.Programs, asked: Asked) -> None:
    with EximInstance(exim_programs, asked.server_address[1]) as exim:
        for header in HEADERS:
            asked.lines.clear()
            sent = exim.inbound().send(
                header.encode() + b"Subject: x\n\nx\n", "a@b.example", ["bob@local.test"]
            )
            assert sent.code == 250, (sent, exim.log_text())
            exim.collect()
            (line,) = (x for x in asked.lines if b"stage=data" in x)
            pairs = (part.partition(b"=") for part in line.split())
            told = {name: value for name, _, value in pairs}
            fields: dict[str, list[bytes]] = {}
            for line_ in header.replace("\n ", " ").replace("\n\t", " ").splitlines():
                name, _, value = line_.partition(":")
                fields.setdefault(name.lower().rstrip(), []).append(value.encode())
            want = marks.read(lambda name: fields.get(name, []))  # noqa: B023
            got = marks.ALL.intersection(told[b"marks"].decode().split(","))
            assert got == want, header
