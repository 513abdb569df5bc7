"""A small Dovecot authentication server, so that Postfix can do SASL without any SASL package.

Speaks enough of the Dovecot authentication protocol 1.1 for `smtpd_sasl_type = dovecot`: PLAIN
with and without an initial response. One login, one password, one unix socket, one thread.
"""

import base64
import binascii
import os
import socketserver
import threading
from pathlib import Path


class _Handler(socketserver.StreamRequestHandler):
    server: "SaslStub"

    def _say(self, *fields: str) -> None:
        self.wfile.write("\t".join(fields).encode() + b"\n")

    def handle(self) -> None:
        self._say("VERSION", "1", "1")
        self._say("MECH", "PLAIN", "plaintext")
        self._say("SPID", str(os.getpid()))
        self._say("CUID", "1")
        self._say("COOKIE", "0" * 32)
        self._say("DONE")
        for line in self.rfile:
            verb, _, rest = line.decode().rstrip("\n").partition("\t")
            fields = rest.split("\t")
            if verb == "AUTH":
                given = [f[5:] for f in fields if f.startswith("resp=")]
                if given:
                    self._answer(fields[0], given[0])
                else:
                    self._say("CONT", fields[0], "")
            elif verb == "CONT":
                self._answer(fields[0], fields[1])

    def _answer(self, request: str, response: str) -> None:
        try:
            _, user, password = base64.b64decode(response).decode().split("\0")
        except (binascii.Error, ValueError):
            self._say("FAIL", request)
            return
        if (user, password) == (self.server.login, self.server.password):
            self._say("OK", request, f"user={user}")
        else:
            self._say("FAIL", request, f"user={user}")


class SaslStub(socketserver.ThreadingUnixStreamServer):
    """Serves from the moment it is made until `stop`."""

    daemon_threads = True

    def __init__(self, path: Path, login: str, password: str) -> None:
        self.login, self.password = login, password
        super().__init__(str(path), _Handler)
        path.chmod(0o666)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)
