"""`milterctl trace`: make keys for X-Gatepost-Trace, and find the account behind a token."""

import getpass
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import FINDINGS, Failure, note

if TYPE_CHECKING:
    from gatepost_policy.tracing import Answer, Keyring

KEYS = click.option(
    "--keys", type=click.Path(path_type=Path, file_okay=False), metavar="DIRECTORY",
    default=Path("gatepost-trace"), show_default=True,
    help="Where keygen has put the private halves.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Accountable anonymity: who wrote a message, for who has the key.

    Not for the mail host: the private keys never come there.
    """


@command.command("keygen", short_help="Make a pair of keys for each week to come.")
@click.option("--weeks", type=click.IntRange(1, 520), metavar="N", default=52, show_default=True,
              help="From this week on.")  # fmt: skip
@KEYS
@click.option("--bundle", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              default=Path("gatepost-trace.pub"), show_default=True,
              help="The public halves, for submission.trace_keys.")  # fmt: skip
def keygen(weeks: int, keys: Path, bundle: Path) -> None:
    """Make a pair of keys for each week to come; weeks that have one keep it.

    The bundle goes to the mail host, the directory stays.
    """
    from gatepost_policy.tracing import TraceKeyError, make_keys

    try:
        made = make_keys(keys, bundle, weeks, time.time())
    except TraceKeyError as error:
        raise Failure(str(error)) from None
    print(f"{made} new keys in {keys}; put {bundle} on the mail host and name it in "
          "submission.trace_keys")  # fmt: skip


@command.command("resolve", short_help="Name the account behind a message, report or token.")
@click.argument("what", metavar="FILE.eml|TOKEN")
@KEYS
@click.option("--case", "case", default="", metavar="TEXT", help="Why, for audit.log.")
def resolve(what: str, keys: Path, case: str) -> None:
    """Name the account behind a message, an abuse report, a bounce or a bare token.

    Each attempt is a line in audit.log beside the keys, without the account. Exit code 1 unless it
    is named and the message is the one that it wrote.
    """
    from gatepost_policy import tracing
    from gatepost_policy.tracing import Outcome

    path = Path(what)
    is_file = len(what) < 256 and path.is_file()
    try:
        data = path.read_bytes() if is_file else what.encode()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    try:
        keyring = tracing.Keyring(keys)
        answer, *more = tracing.resolve_each(data, keyring)
        for one in (answer, *more):
            _audit(keyring, one, what if is_file else "token", case)
    except tracing.TraceKeyError as error:
        raise Failure(str(error)) from None
    if answer.outcome is Outcome.NO_TOKEN:
        raise Failure(f"{what[:80]}: neither a file with X-Gatepost-Trace in it nor a token")
    if answer.outcome is Outcome.NO_KEY:
        raise Failure(f"no private key {answer.key} in {keys}: forgotten, or never made here")
    if answer.content is None:
        raise Failure(f"{answer.outcome}: no account is named")
    for number, one in enumerate((answer, *more)):
        if number:
            print()
        _show(one)
    if more:
        note(f"{len(more) + 1} messages in this file have a trace: only you know which is meant")
        raise SystemExit(FINDINGS)
    if answer.outcome is Outcome.BODY_CHANGED:
        raise SystemExit(FINDINGS)


@command.command("forget")
@click.option("--before", required=True, metavar="T",
              help="A time or an age (ISO 8601, 30d): all weeks that had ended by then.",
              )  # fmt: skip
@KEYS
def forget(before: str, keys: Path) -> None:
    """Destroy the private keys of old weeks.

    What they sealed stays sealed.
    """
    from gatepost_policy.text.plural import plural
    from gatepost_policy.text.times import moment
    from gatepost_policy.tracing import Keyring, TraceKeyError

    try:
        limit = moment(before, time.time())
    except ValueError as error:
        raise click.UsageError(f"--before: {error}") from None
    try:
        keyring = Keyring(keys)
        gone = keyring.forget(limit)
        keyring.audit(json.dumps({"at": _now(), "by": _who(), "forgot": gone}))
    except TraceKeyError as error:
        raise Failure(str(error)) from None
    print(
        f"{plural(len(gone), 'key')} destroyed; copies and backups of {keys} are yours to destroy"
    )


def _audit(keyring: "Keyring", answer: "Answer", what: str, case: str) -> None:
    """Write the audit line before anything is printed: when, who, why, which message; never the
    account. Raises TraceKeyError."""
    queue_id = None if answer.content is None else answer.content.queue_id
    keyring.audit(json.dumps({
        "at": _now(), "by": _who(), "what": what, "key": answer.key, "queue_id": queue_id,
        "outcome": answer.outcome, "case": case,
    }))  # fmt: skip


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return "?"


def _show(answer: "Answer") -> None:
    from gatepost_policy.text.escape import shown
    from gatepost_policy.tracing import Outcome

    content = answer.content
    assert content is not None
    print(f"account   {shown(content.account)}")
    if answer.attached:
        print("wrote     the message that is attached here")
    print(f"received  {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(content.at))}")
    print(f"queue id  {shown(content.queue_id) or '-'}")
    if answer.outcome is not Outcome.RESOLVED:
        print(f"message   {answer.outcome}")
    elif not answer.body_known:
        print("message   the header is the one that was sealed; the body is not here")
    else:
        print("message   header and body are those that were sealed")
    if sys.stdout.isatty():
        note("the account may have been stolen: this says whose login it was, not whose hand")
