"""Is our own Received hidden the way gatepost.toml says: by the milter, by Postfix, behind a proxy?

The token table is tried out with postmap on a field as smtpd writes it, not read and guessed at.
"""

from collections.abc import Iterator

from gatepost_milter.doctor.finding import Finding, Live, master
from gatepost_milter.doctor.postfix_config import Service, Unreadable
from gatepost_policy import scrub

PROBE = (
    "Received: from ehlo.example (ptr.example [192.0.2.77])\n"
    "\t(Authenticated sender: login)\n"
    "\tby {host} ({name}) with ESMTPSA id ABC123\n"
    "\tfor <b@example.org>; Fri, 20 Nov 2026 10:00:00 +0000\n"
)
CLIENT = ("ehlo.example", "ptr.example", "192.0.2.77", "login")


def own_hop(live: Live, service: Service) -> Iterator[Finding]:
    """How our own Received is hidden, by mode."""
    where = master(service)
    mode, token = live.settings.submission.own_received, live.settings.submission.mta_token
    name = live.config.get("mail_name", service) or "Postfix"
    version = live.config.get("mail_version", service)
    sweeps = mode == "milter" or (mode == "mta" and not token)
    if sweeps and not scrub.verified(f"{name} {version}"):
        yield Finding(
            "postfix-version", where,
            f"{name} {version} is not on the list of verified releases (3.0 to 3.11): "
            "submitted mail gets 451",
            'gatepost.toml: [submission] own_received = "proxy", as in docs/postfix.md',
        )  # fmt: skip
    if mode != "mta":
        return
    if not token:
        if live.config.get("smtpd_hide_client_session", service) != "yes":
            yield Finding(
                "client-session", where, "Postfix writes the client into its Received field",
                "  -o smtpd_hide_client_session=yes",
            )  # fmt: skip
        return
    if name != token:
        yield Finding("token-name", where, "the listener does not call itself by the token",
                      f"  -o mail_name={token}")  # fmt: skip
    cleanup = live.config.service(live.config.get("cleanup_service_name", service))
    table = live.config.get("header_checks", cleanup) if cleanup else ""
    if cleanup is None or not table:
        yield Finding("token-table", where, "no header_checks rewrite our own Received field",
                      "  -o header_checks=regexp:/etc/postfix/submission_received")  # fmt: skip
        return
    yield from token_table(live, cleanup, table, token)


def token_table(live: Live, cleanup: Service, table: str, token: str) -> Iterator[Finding]:
    host = live.config.get("myhostname", cleanup)
    where, advice = master(cleanup), "copy conf/postfix/submission_received there"
    try:
        got = live.config.lookup(table, PROBE.format(name=token, host=host))
    except Unreadable as error:
        yield Finding("token-table", where, f"{table} cannot be read: {error}", advice)
        return
    new = got.partition("REPLACE ")[2]
    if not new.startswith("Received:") or any(word in new for word in (*CLIENT, token)):
        yield Finding("token-table", where,
                      f"{table} does not rewrite our own Received field", advice)  # fmt: skip
    for name in ("mime_header_checks", "nested_header_checks"):
        # Left alone they are header_checks again, and match inside attached messages.
        if live.config.get(name, cleanup) == table:
            yield Finding("nested-checks", where, f"{name} applies the table to attachments",
                          f"  -o {name}=")  # fmt: skip


def second_hop(live: Live, service: Service) -> Service | None:
    """The service behind smtpd_proxy_filter."""
    target = live.config.get("smtpd_proxy_filter", service)
    path = target.removeprefix("unix:")
    for other in live.config.smtpd():
        folder = "private" if other.type == "unix" else "public"
        if other.type == "unix" and path == f"{folder}/{other.name}":
            return other
        if other.type == "inet" and target.strip("[]").endswith(f":{other.port}"):
            return other
    return None


def proxy(live: Live, service: Service) -> Iterator[Finding]:
    """The two-hop set-up's own traps."""
    where = master(service)
    if not live.config.get("smtpd_proxy_filter", service).startswith("unix:"):
        yield Finding("proxy-tcp", where, "any local user can relay through a TCP second hop",
                      "  -o smtpd_proxy_filter=unix:private/hop2in")  # fmt: skip
    if "speed_adjust" in live.config.get("smtpd_proxy_options", service):
        yield Finding("speed-adjust", where, "one refused recipient refuses the whole message",
                      "  -o smtpd_proxy_options=")  # fmt: skip
    if live.config.get("smtpd_sasl_authenticated_header", service) != "yes":
        yield Finding("proxy-login", where, "the second hop cannot see who logged in: 451",
                      "  -o smtpd_sasl_authenticated_header=yes")  # fmt: skip
