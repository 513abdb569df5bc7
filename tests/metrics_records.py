"""Journal records for the metrics endpoint, and a reader of it."""

import threading
import urllib.error
import urllib.request

MESSAGE = {
    "kind": "message",
    "direction": "inbound",
    "family": "ipv6",
    "action": "reject",
    "reason": "trap",
    "shadow": ["listed"],
    "recipients": [{"address": "never@example.net", "trap": True, "accepted": True}],
    "signatures": [{"result": "pass"}, {"result": "permerror"}],
}


SUBMISSION = {
    "kind": "count",
    "direction": "submission",
    "family": "ipv4",
    "action": "accept",
    "reason": "own-user-trap",
}


def get(url: str) -> tuple[int, str]:
    request = urllib.request.Request(url)
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError:
            threading.Event().wait(0.05)  # the thread has not bound yet
    raise AssertionError(f"{url} never answered")
