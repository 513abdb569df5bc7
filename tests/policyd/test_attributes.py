"""The policy protocols as tables and as properties: accepted or ProtocolError, nothing else."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from from_table import from_table
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail.decision import NO_SUCH_USER, TRY_LATER, Action, Decision, Reason
from gatepost_policy.mail.facts import Direction, Family, Stage
from gatepost_policy.policyd import attributes
from gatepost_policy.policyd.protocol import Form, ProtocolError, Reader, Request

AT = 1_790_000_000.0
SETTINGS = from_table(
    Settings, {"submission": {"networks": ["10.0.0.0/8"], "trusted_relays": ["198.51.100.0/24"]}}
)


def postfix(**values: str) -> bytes:
    base = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "client_address": "192.0.2.7",
        "client_name": "mail.spam.example",
        "client_port": "4000",
        "helo_name": "spam",
        "sender": "x@spam.example",
        "recipient": "user@home.example",
        "queue_id": "",
        "instance": "a.b.c",
    }
    return "".join(f"{k}={v}\n" for k, v in {**base, **values}.items()).encode() + b"\n"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def exim(stage: str, **values: str) -> bytes:
    """Every value in base64, as conf/exim sends them."""
    return (
        f"exim stage={stage} " + " ".join(f"b64.{k}={b64(v)}" for k, v in values.items()) + "\n"
    ).encode()


def read(data: bytes, limit: int = 65_536) -> list[Request]:
    return list(Reader(limit).feed(data))


def one(data: bytes) -> Request:
    (request,) = read(data)
    return request


def facts(data: bytes, **tables: Any) -> Any:
    return attributes.facts(one(data), AT, SETTINGS)


# request, is there doubt
DOUBTS = [
    (postfix(), None),
    (postfix(unknown="1", etrn_domain=""), None),
    (postfix().replace(b"\n", b"\r\n"), None),
    (b"\n\n" + postfix(), None),
    (postfix(request="other"), "another kind of request"),
    (postfix(helo_name="a\0b"), "a NUL"),
    (postfix()[:-1] + b"sender=other@x.example\n\n", "an attribute twice"),
    (postfix()[:-1] + b"sender=x@spam.example\n\n", None),  # the same again says nothing else
    (postfix()[:-1] + b"b64.sender=%%%\n\n", "broken base64"),
    (postfix()[:-1] + b"b64.instance=AA==\n\n", "a NUL"),
    (exim("rcpt", sender=""), None),
    (b"exim stage=rcpt client_address=192.0.2.7 size=\n", None),
    (b"exim stage=rcpt b64.sender=%%%\n", "broken base64"),
    (b"exim stage=rcpt b64.sender=YQ\n", "broken base64"),
    (b"exim stage=rcpt b64.sender=YQ== b64.sender=Yg==\n", "an attribute twice"),
    (b"exim stage=quit\n", "another stage"),
    (b"exim b64.sender=YQ==\n", "another stage"),
    (b"exim stage=rcpt b64.sender=AA==\n", "a NUL"),
]


@pytest.mark.parametrize(("data", "doubt"), DOUBTS)
def test_doubt(data: bytes, doubt: str | None) -> None:
    assert one(data).doubt == doubt


def test_base64_in_lines_of_their_own() -> None:
    (got,) = read(b"request=smtpd_access_policy\nb64.sender=" + b64("a b=@x").encode() + b"\n\n")
    assert (got.doubt, got.get("sender")) == (None, "a b=@x")


def test_pipelined_and_mixed() -> None:
    got = read(postfix(instance="1") + exim("rcpt", sender="a") + postfix(instance="2"))
    assert [r.form for r in got] == [Form.POSTFIX, Form.EXIM, Form.POSTFIX]
    assert [r.get("instance") for r in got] == ["1", "", "2"]


@pytest.mark.parametrize(
    "data",
    [b"x" * 5000, b"a=" + b"x" * 5000 + b"\n", b"a=b\n" * 2000, b"exim a=" + b"x" * 5000 + b"\n"],
)
def test_too_long(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data, limit=4096)


def test_a_cut_request_is_none() -> None:
    reader = Reader(4096)
    assert list(reader.feed(postfix()[:-1])) == []
    assert not reader.idle
    assert len(list(reader.feed(b"\n"))) == 1
    assert reader.idle


@pytest.mark.parametrize(
    "more",
    [
        b"", b"sender_x=a=b==\n", b"helo_name=\xff\xc3\n", b"helo_name=\xc3\xa9\n", b"=x\n",
        b"no attribute\n", b"sender\n", b"b64.ccert_subject=YQ==\n", b"new.name=1\n",
        b"sender=x@spam.example\n", b"sender=other@x.example\n", b"size=\0\n", b"size=1\r\n",
        b"request=smtpd_access_policy\n", b"a b=c\n", b"size= \n", b"x=" + b"y" * 4000 + b"\n",
        *(b"".join(b"n%d=\n" % n for n in range(count)) for count in (150, 190, 200)),
    ],
)  # fmt: skip
def test_one_piece_says_what_many_say(more: bytes) -> None:
    """The usual request is read in one go: it must not be another one for that."""

    def said(pieces: list[bytes]) -> list[Any]:
        reader = Reader(4096)
        out: list[Any] = []
        try:
            for piece in pieces:
                out += reader.feed(piece)
        except ProtocolError:
            out.append("no protocol")
        return [*out, reader.idle]

    data = b"request=smtpd_access_policy\n" + more + postfix().partition(b"\n")[2]
    octets = [data[n : n + 1] for n in range(len(data))]
    assert said([data]) == said([data]) == said(octets)
    assert said([data + b"\n"]) == said([*octets, b"\n"])


CLIENTS = [
    ("192.0.2.7", "ipv4", "192.0.2.7"),
    ("::ffff:192.0.2.7", "ipv4", "192.0.2.7"),
    ("2001:db8::1", "ipv6", "2001:db8::1"),
    ("IPv6:2001:db8::1", "ipv6", "2001:db8::1"),
    ("fe80::1%eth0", "ipv6", "fe80::1"),
    ("unknown", "unknown", None),
    ("nonsense", "unknown", None),
]


@pytest.mark.parametrize(("text", "family", "address"), CLIENTS)
def test_client(text: str, family: str, address: str | None) -> None:
    client = facts(postfix(client_address=text)).client
    assert (client.family, client.address and str(client.address)) == (family, address)


NAMES = [("mail.X.example", "mail.x.example"), ("unknown", None), ("[192.0.2.7]", None), ("", None)]


@pytest.mark.parametrize(("text", "want"), NAMES)
def test_client_name(text: str, want: str | None) -> None:
    assert facts(postfix(client_name=text)).client.name == want


SUBMISSIONS = [
    postfix(sasl_username="joe"),
    postfix(client_address="10.1.2.3"),
    postfix(policy_context="ORIGINATING"),
    exim("rcpt", client_address="192.0.2.7", login="joe", recipient="u@x.example", helo="canary"),
    exim("rcpt", client_address="192.0.2.7", submission="yes", recipient="u@x.example"),
    exim("data", client_address="192.0.2.7", login="joe", recipients="u@x.example"),
]


@pytest.mark.parametrize("data", SUBMISSIONS)
def test_nothing_of_a_submission_is_kept(data: bytes) -> None:
    got = facts(data)
    assert got.direction is Direction.SUBMISSION
    assert got.client.family is Family.IPV4
    assert (got.client.address, got.client.port, got.client.name, got.client.helo) == (None,) * 4
    assert got.login is None
    kept = str(record.count(got, Decision(Action.ACCEPT, Reason.SCRUBBED)))
    whole = str(record.message(Seen("message", got, Decision(Action.ACCEPT, Reason.SCRUBBED))))
    for secret in ("192.0.2.7", "10.1.2.3", "joe", "canary", "4000", "mail.spam.example"):
        assert secret not in kept and secret not in whole, secret


def test_directions() -> None:
    assert facts(postfix()).direction is Direction.INBOUND
    relay = facts(postfix(client_address="198.51.100.1"))
    assert (relay.direction, relay.trusted_relay) == (Direction.INBOUND, True)
    local = facts(exim("data", client_address="", recipients="u@x.example"))
    assert (local.direction, local.client.family) == (Direction.LOCAL, Family.UNIX)


def test_exim_message() -> None:
    got = facts(
        exim(
            "data",
            id="1vM-0001-AB",
            client_address="2001:db8::1",
            client_port="25000",
            sender='"a b=c"@x.example',
            recipients='one@x.example, "q, r"@x.example\ntwo@x.example',
            size="1234",
            message_id=" <id@x.example>\n",
            **{"from": " Joe <joe@x.example>\n"},
        )
    )
    assert got.stage is Stage.END
    assert [r.address.raw for r in got.recipients] == [
        "one@x.example", '"q, r"@x.example', "two@x.example",
    ]  # fmt: skip
    assert (got.queue_id, got.size, got.message_id) == ("1vM-0001-AB", 1234, "<id@x.example>")
    assert got.sender.raw == '"a b=c"@x.example'
    assert got.header_from is not None and got.header_from.raw == "joe@x.example"


def test_what_a_header_says_of_its_message() -> None:
    """Only known words, only of a whole message; left out is not known."""
    wanted = {
        "reply,auto,": frozenset(("reply", "auto")),
        "": frozenset[str](),
        "list,,x=y,LIST": frozenset(("list",)),
    }
    for told, marks in wanted.items():
        assert attributes.facts(one(exim("data", marks=told)), AT, SETTINGS).marks == marks
        assert attributes.facts(one(exim("rcpt", marks=told)), AT, SETTINGS).marks is None
    assert attributes.facts(one(exim("data")), AT, SETTINGS).marks is None


def test_latin1_is_kept() -> None:
    got = facts(b"exim stage=rcpt b64.recipient=" + b64(b"caf\xe9@x.example").encode() + b"\n")
    assert got.recipients[0].address.raw.encode("utf-8", "surrogateescape") == b"caf\xe9@x.example"


DKIM = {"domain": "Spam.example", "selector": "s1", "algorithm": "rsa-sha256",
        "canon_headers": "relaxed", "canon_body": "simple", "key_bits": "2048",
        "body_limit": "9999999999999", "testing": "0"}  # fmt: skip
SIGNATURES: list[tuple[dict[str, str], tuple[Any, ...]]] = [
    ({"status": "pass"}, ("pass", "pass", None, True)),
    ({"status": "pass", "algorithm": "rsa-sha1"}, ("pass", "policy", "weak-hash", True)),
    ({"status": "pass", "key_bits": "768"}, ("pass", "policy", "weak-key", False)),
    ({"status": "pass", "algorithm": "ed25519-sha256", "key_bits": "256"},
     ("pass", "pass", None, True)),
    ({"status": "pass", "body_limit": "100"}, ("pass", "pass", None, False)),
    ({"status": "pass", "testing": "1"}, ("pass", "pass", None, False)),
    ({"status": "fail", "reason": "bodyhash_mismatch"},
     ("fail", "fail", "body-hash-mismatch", False)),
    ({"status": "fail", "reason": "signature_incorrect"},
     ("fail", "fail", "bad-signature", False)),
    ({"status": "invalid", "reason": "pubkey_unavailable"},
     (None, "temperror", "key-unavailable", False)),
    ({"status": "invalid", "reason": "pubkey_dns_syntax"},
     (None, "permerror", "bad-key-record", False)),
    ({"status": "invalid", "reason": "new in Exim 5"},
     (None, "permerror", "unspecified", False)),
]  # fmt: skip


@pytest.mark.parametrize(("values", "want"), SIGNATURES)
def test_exim_signature(values: dict[str, str], want: tuple[Any, ...]) -> None:
    got = attributes.signature(one(exim("dkim", id="1", **{**DKIM, **values})), SETTINGS)
    assert got is not None
    assert (got.crypto, got.result, got.reason, got.proven) == want
    assert (got.domain, got.canonicalization) == ("spam.example", "relaxed/simple")


@pytest.mark.parametrize("values", [{"status": "none"}, {"status": "pass", "domain": "@x.example"}])
def test_no_exim_signature(values: dict[str, str]) -> None:
    request = one(exim("dkim", id="1", **{**DKIM, **values}))
    assert attributes.signature(request, SETTINGS) is None


REJECT = Decision(Action.REJECT, Reason.TRAP, NO_SUCH_USER)
TEMPFAIL = Decision(Action.TEMPFAIL, Reason.LISTED, TRY_LATER)
ACCEPT = Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL)
DROP = Decision(Action.ACCEPT, Reason.TRAP_MIXED, drop_recipients=("a@x.example", "b c@x.example"))
TAG = Decision(Action.ACCEPT, Reason.LISTED, tag=True)
DISCARD = Decision(Action.DISCARD, Reason.TRAP)
ANSWERS = [
    (Form.POSTFIX, Stage.RCPT, ACCEPT, b"action=DUNNO\n\n"),
    (Form.POSTFIX, Stage.RCPT, TAG, b"action=DUNNO\n\n"),
    (Form.POSTFIX, Stage.RCPT, DISCARD, b"action=DUNNO\n\n"),
    (Form.POSTFIX, Stage.RCPT, REJECT, b"action=550 5.1.1 User unknown\n\n"),
    (Form.POSTFIX, Stage.RCPT, TEMPFAIL, b"action=451 4.7.1 Please try again later\n\n"),
    (Form.EXIM, Stage.RCPT, ACCEPT, b"OK\n"),
    (Form.EXIM, Stage.RCPT, TAG, b"OK\n"),
    (Form.EXIM, Stage.RCPT, REJECT, b"550 5.1.1 User unknown\n"),
    (Form.EXIM, Stage.END, TEMPFAIL, b"451 4.7.1 Please try again later\n"),
    (Form.EXIM, Stage.END, DISCARD, b"DISCARD\n"),
    (Form.EXIM, Stage.END, TAG, b"TAG X-Gatepost: listed\n"),
    (Form.EXIM, Stage.END, DROP,
     f"OK drop={b64('a@x.example')},{b64('b c@x.example')}\n".encode()),
]  # fmt: skip


@pytest.mark.parametrize(("form", "stage", "decision", "want"), ANSWERS)
def test_answer(form: Form, stage: Stage, decision: Decision, want: bytes) -> None:
    assert attributes.answer(form, stage, decision, SETTINGS) == want


WORDS = st.sampled_from(
    [b"request=smtpd_access_policy\n", b"protocol_state=RCPT\n", b"recipient=", b"sender=", b"\n",
     b"exim ", b"stage=rcpt ", b"stage=data ", b"stage=dkim ", b"b64.recipients=", b"b64.from=",
     b"client_address=", b"::ffff:", b"1.2.3.4", b"%", b"[", b"size=", b"9" * 20, b" ", b"=",
     "²".encode(), b"YUBi", b"=="]
)  # fmt: skip
STREAM = st.lists(WORDS | st.binary(max_size=20), max_size=60).map(b"".join)


def everything(data: bytes, cuts: list[int]) -> list[object]:
    """All that a stream of requests makes, or that it cannot be followed."""
    reader = Reader(4096)
    out: list[object] = []
    places = sorted({min(c, len(data)) for c in cuts})
    start = 0
    try:
        for place in [*places, len(data)]:
            for request in reader.feed(data[start:place]):
                out.append(request)
                if request.doubt is None:
                    got = attributes.facts(request, AT, SETTINGS)
                    out.append(got)
                    out.append(attributes.signature(request, SETTINGS))
                    seen = Seen("rcpt", got, ACCEPT)
                    out.append(record.read_seen(record.message(seen)).facts.sender)
            start = place
    except ProtocolError:
        out.append("ProtocolError")
    return out


@given(data=STREAM, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_whatever_comes(data: bytes, cuts: list[int]) -> None:
    """Accepted or ProtocolError, never another exception; and where it is cut does not matter."""
    whole, cut = everything(data, []), everything(data, cuts)
    assert cut == whole or "ProtocolError" in whole


@given(data=STREAM)
def test_byte_by_byte(data: bytes) -> None:
    whole = everything(data, [])
    if "ProtocolError" not in whole:
        assert everything(data, list(range(len(data)))) == whole


@given(
    local=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")),
    helo=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")),
)
def test_base64_carries_everything(local: str, helo: str) -> None:
    got = one(exim("rcpt", recipient=f"{local}@x.example", helo=helo))
    assert (got.get("recipient"), got.get("helo")) == (f"{local}@x.example", helo)
