"""The page of an abuse report: what it says, what could still name a trap, and the file to send.

It reads and sends nothing: the same report as `milterctl report --format xarf|arf`.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from flask import Flask, Response, abort, request
from sqlalchemy import Engine

from gatepost_policy.config.settings import Settings
from gatepost_policy.report import abuse_report, history
from gatepost_policy.report.evidence import NoEvidence, Reporter
from gatepost_policy.report.masking import StillThere
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import reading
from gatepost_policy.text.escape import shown
from gatepost_policy.web.addresses import Addresses

LINES = 100  # messages that are looked through for the newest to a trap, as the command does
TYPES = {"xarf": ("application/json", "json"), "arf": ("message/rfc822", "eml")}


def add(
    app: Flask,
    settings: Settings,
    engine: Callable[[], Engine],
    clock: Callable[[], float],
    select: Callable[[str, str, float], Selection],
) -> None:
    """Add the pages `/evidence/KIND/VALUE` to `app`. `select(kind, value, now)`, with the time in
    Unix seconds, reads whom a page is about and the filters, and raises ValueError."""

    @app.get("/evidence/<any(sender, host):kind>/<value:value>")
    def evidence(kind: str, value: str) -> Any:
        now = clock()
        said: list[str] = []
        form = request.args.get("form")
        if form and form not in TYPES:
            abort(400, f"form: want one of {', '.join(TYPES)}")
        by: Reporter | None = None
        try:
            chosen = replace(select(kind, value, now), limit=LINES)
            by = _reporter(settings)
        except ValueError as error:
            abort(400, f"{error}.")
        if form and by is None:
            abort(400, "say who reports: contact, an address that is read.")
        try:
            with reading(engine()) as connection:
                report = history.tell(connection, chosen, settings, now, marks=0)
                found = abuse_report.gather(connection, report, settings, said.append)
        except NoEvidence as error:
            abort(404, f"{error}.")
        except StillThere as error:
            abort(500, f"{error}: there is no report that could be sent.")
        if form and by is not None:
            kind_, extension = TYPES[form]
            answer = Response(abuse_report.written(found, by, form, now), content_type=kind_)
            name = f"abuse-report.{extension}"
            answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
            return answer
        at = Addresses.of(request.script_root, request.path, request.args.items())
        return app.jinja_env.get_template("evidence.html.j2").render(
            title=f"Abuse report on {shown(value)}", at=at, back=at.link(kind, value), by=by,
            found=found, said=said, version=version("gatepost"),
        )  # fmt: skip


def _reporter(settings: Settings) -> Reporter | None:
    """Who reports, as the request or the settings say; None: nobody is named. Raises ValueError."""
    try:
        return abuse_report.reporter(settings, request.args.get("contact"), request.args.get("org"))
    except abuse_report.NoReporter:
        return None
