"""Read one Received field for what it says about the client that handed the message over.

Pure: bytes in, `Hop` out, never raises. Knows the forms that Postfix, Exim, Sendmail, qmail and
Exchange write (RFC 5321 4.4 and what is seen in practice); of a field in another form only the from
clause is read.
"""

import re
from dataclasses import dataclass

# Comments nest at most one deep in practice: "(using TLSv1.3 with cipher X (256/256 bits))".
_COMMENT = re.compile(r"\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)", re.S)
_FROM = re.compile(r"\s*from\s+(\S+)", re.I)
_BY = re.compile(r"(?:^|\s)by\s+([^\s;(]+)", re.I)
_WITH = re.compile(r"(?:^|\s)with\s+([A-Za-z0-9-]+)", re.I)
_ID = re.compile(r"\sid\s+([^\s;]{1,100})", re.I)
_ADDRESS = re.compile(
    r"(?<![\w.])(?:IPv6:)?([0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:%\w+)?)(?![\w:])"
    r"|(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})(?![\w.]*\d\.)",
    re.I,
)
_HELO = re.compile(r"\b(?:helo|ehlo)[= ]([^\s)]+)", re.I)
_AUTH = re.compile(
    r"(?:Authenticated sender: |Authenticated user: |Auth(?:enticated)?[ =:]+|\bAUTH\b[^)]*? "
    r"|\(Account )([^\s);,]+)",
    re.I,
)
_ENVELOPE_FROM = re.compile(r"envelope-from <?([^\s>)]*)", re.I)
# RFC 3848 and RFC 6531 4.3: a trailing A says that the client had authenticated. HTTP, MAPI and
# the old ASMTP are submissions as well.
_SUBMITTED = re.compile(r"(?:UTF8)?(?:E?SMTPS?A|LMTPS?A|ASMTP|HTTPS?|MAPI|local|esmtpsa)\Z", re.I)


@dataclass(frozen=True, slots=True)
class Hop:
    """What one Received field says. `tells` holds (what, text) pairs about the client, `by` the
    host after "by", `protocol` the word after "with".
    """

    by: str | None
    protocol: str | None
    tells: tuple[tuple[str, str], ...]
    queue_id: str | None = None  # what follows "id"

    @property
    def submitted(self) -> bool:
        """True where a user handed the message to this server (by its protocol, "with")."""
        return bool(self.protocol and _SUBMITTED.match(self.protocol))


def read(value: bytes) -> Hop:
    """The hop that `value`, a Received field's value in any folding, describes."""
    text = re.sub(r"[\r\n]+[ \t]*", " ", value.decode("utf-8", "replace")).strip()
    # What follows the last ";" is the date.
    body = text.rpartition(";")[0] or text
    plain = _COMMENT.sub(" ", body)
    by, with_ = _BY.search(plain), _WITH.search(plain)
    from_ = _FROM.match(body)
    tells: list[tuple[str, str]] = []
    # The client stands before "by", except for a login or a TLS comment.
    client = body[:by_position] if (by_position := _by_position(body)) >= 0 else body
    if from_:
        tells.append(("name the client gave or has", from_.group(1)))
        found = {a or b for a, b in _ADDRESS.findall(client)}
        tells += [("client address", ip) for ip in sorted(found)]
        if inner := re.search(r"\(([^\s()\[\]=]+\.[^\s()\[\]=]+) \[", client):
            tells.append(("client host name", inner.group(1)))
        tells += [("EHLO name", name) for name in _HELO.findall(client)]
    if "using TLS" in body or re.search(r"\btls\b|\(TLS|cipher=", body, re.I):
        tells.append(("TLS of the session", "protocol and cipher"))
    tells += [("login", login) for login in _AUTH.findall(body)]
    if match := _ENVELOPE_FROM.search(body):
        tells.append(("envelope sender", match.group(1)))
    return Hop(
        by=by.group(1) if by else None,
        protocol=with_.group(1) if with_ else None,
        tells=tuple(dict.fromkeys(tells)),
        queue_id=id_.group(1) if (id_ := _ID.search(plain)) else None,
    )


def _by_position(body: str) -> int:
    """Where the "by" clause starts, comments not counted; -1 where there is none."""
    hidden = _COMMENT.sub(lambda m: "x" * len(m.group()), body)
    match = _BY.search(hidden)
    return match.start() if match else -1
