"""Is our own Received hidden the way gatepost.toml says: by the milter, by Postfix, behind a proxy?

The token table is tested with postmap on a field as smtpd writes it.
"""

from collections.abc import Iterator

from gatepost_milter.doctor import postfix_lines
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
    """Findings on how our own Received is hidden, by submission.own_received."""
    where = master(service)
    mode, token = live.settings.submission.own_received, live.settings.submission.mta_token
    name = live.config.get("mail_name", service) or "Postfix"
    version = live.config.get("mail_version", service)
    knows = live.config.knows("smtpd_hide_client_session")
    sweeps = mode == "milter" or (mode == "mta" and not token)
    if sweeps and not scrub.verified(f"{name} {version}"):
        yield Finding(
            "postfix-version", where,
            f"{name} {version} is not on the list of verified releases (3.0 to 3.11): "
            "submitted mail gets 451",
            'gatepost.toml: [submission] own_received = "proxy"; then milterctl setup '
            "postfix --apply",
        )  # fmt: skip
    if mode != "mta":
        return
    if not token:
        if not knows:
            # An older Postfix ignores the option without an error.
            better = "milter" if scrub.verified(f"Postfix {version}") else "proxy"
            yield Finding(
                "client-session", where,
                f"Postfix {version} does not know smtpd_hide_client_session, and writes the client "
                "into its Received field",
                f'gatepost.toml: [submission] own_received = "{better}"'
                + ("; then milterctl setup postfix --apply" if better == "proxy" else ""),
            )  # fmt: skip
        elif not live.config.yes("smtpd_hide_client_session", service):
            yield live.mend(
                "client-session", where, "Postfix writes the client into its Received field",
                live.config.set("smtpd_hide_client_session", "yes", service),
            )  # fmt: skip
        return
    if name != token:
        yield live.mend("token-name", where, "the listener does not call itself by the token",
                        live.config.set("mail_name", token, service))  # fmt: skip
    name = "receive_override_options"
    options = [w.text for w in postfix_lines.words(live.config.get(name, service))]
    if "no_header_body_checks" in options:
        rest = ",".join(w for w in options if w != "no_header_body_checks")
        yield live.mend("token-table", where, "no header_checks are made for this listener, so the "
                        "token's table is not asked and submissions get 451",
                        live.config.set(name, rest, service))  # fmt: skip
    cleanup = live.config.service(live.config.get("cleanup_service_name", service))
    table = live.config.get("header_checks", cleanup) if cleanup else ""
    if cleanup is None or not table:
        path = f"regexp:{live.config.directory}/submission_received"
        edits = live.config.set("header_checks", path, cleanup) if cleanup else ()
        problem = "no header_checks rewrite our own Received field"
        if edits:
            yield live.mend("token-table", where, problem, edits)
        else:
            yield Finding("token-table", where, problem, "the two entries of conf/postfix/"
                          "master.cf.token, with the token, into master.cf")  # fmt: skip
        return
    yield from token_table(live, cleanup, table, token)


def token_table(live: Live, cleanup: Service, table: str, token: str) -> Iterator[Finding]:
    """header_checks of `cleanup` must rewrite our own Received, only in the message's header."""
    host = live.config.get("myhostname", cleanup)
    path = table.partition(":")[2]
    where = master(cleanup)
    advice = f"sed 's/@TOKEN@/{token}/g' conf/postfix/submission_received > {path}"
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
        # Their default is $header_checks, which would match inside attached messages too.
        if live.config.get(name, cleanup) == table:
            yield live.mend("nested-checks", where, f"{name} applies the table to attachments",
                            live.config.set(name, "", cleanup))  # fmt: skip


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
    """Faults of the set-up with two hops (own_received = "proxy")."""
    where = master(service)

    def mend(code: str, problem: str, name: str, value: str) -> Finding:
        return live.mend(code, where, problem, live.config.set(name, value, service))

    if not live.config.get("smtpd_proxy_filter", service).startswith("unix:"):
        yield mend("proxy-tcp", "any local user can relay through a TCP second hop",
                   "smtpd_proxy_filter", "unix:private/hop2in")  # fmt: skip
    if "speed_adjust" in live.config.get("smtpd_proxy_options", service):
        yield mend("speed-adjust", "one refused recipient refuses the whole message",
                   "smtpd_proxy_options", "")  # fmt: skip
    if not live.config.yes("smtpd_sasl_authenticated_header", service):
        yield mend("proxy-login", "the second hop cannot see who logged in: 451",
                   "smtpd_sasl_authenticated_header", "yes")  # fmt: skip
