"""The live page as a WSGI application: search, history with filters, permalinks, actions.

Rendered on the server, without a line of JavaScript; the content security policy forbids any.
Read-only unless `actions` is set; then every form carries a CSRF token. A request must name this
host in its Host field, or a page elsewhere could point its own name at us (DNS rebinding).
"""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Flask, Response, abort, redirect, request
from flask_wtf.csrf import CSRFError, CSRFProtect, generate_csrf
from jinja2 import ChoiceLoader, PackageLoader
from sqlalchemy import Engine
from werkzeug.exceptions import HTTPException

from gatepost_policy import traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import trap_marks
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Family
from gatepost_policy.render.html import page
from gatepost_policy.report import history, selection, series
from gatepost_policy.report.conditions import TooWide
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import StoreError, reading, writing
from gatepost_policy.text import times
from gatepost_policy.text.escape import shown
from gatepost_policy.web import actions as acting
from gatepost_policy.web.addresses import Addresses, place

ACTOR_MAX = 100
KINDS = ("sender", "host", "trap")
LIMIT, LIMIT_OVERVIEW, LIMIT_MAX = 100, 25, 1000
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def create(
    settings: Settings,
    engine: Callable[[], Engine],
    *,
    hosts: frozenset[str] | None,
    actions: bool = False,
    user_header: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Flask:
    """The application. `hosts`: the Host values that mean us; None (unix socket): any.
    `user_header`: the field in which a proxy names the user, kept with what they do."""
    app = Flask("gatepost_policy.web", static_folder=None)
    # Known to this process only: a token dies with it.
    app.config.update(SECRET_KEY=secrets.token_bytes(32), SESSION_COOKIE_SAMESITE="Strict")
    app.config.update(WTF_CSRF_TIME_LIMIT=None, MAX_CONTENT_LENGTH=16_384)
    # Before the first use of jinja_env: Flask would not escape templates named *.j2.
    app.select_jinja_autoescape = lambda filename: True  # type: ignore[method-assign]
    app.jinja_loader = ChoiceLoader(  # pyright: ignore[reportAttributeAccessIssue]
        [PackageLoader("gatepost_policy.web"), PackageLoader("gatepost_policy.render.html")]
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(page.FILTERS)
    if actions:
        CSRFProtect(app)

    def show(kind: str | None, value: str) -> str:
        now = clock()
        at = addresses()
        try:
            chosen = _selection(kind, value, now)
        except ValueError as error:
            abort(400, str(error))
        with suppress(StoreError):  # a busy store, a replica: what can be read is worth reading
            trap_marks.settle(engine(), settings, seconds=1.0)
        with reading(engine()) as connection:
            report = history.tell(connection, chosen, settings, now)
            charts = series.of(connection, chosen, report, now)
            is_trap = kind == "trap" and traps.is_live(connection, value)
            remarks = acting.notes(connection, value) if kind in ("sender", "host") else []
        template = app.jinja_env.get_template("live.html.j2")
        return template.render(
            page.context(report, charts, at.link, at.zoom, now),
            at=at,
            kind=kind,
            value=value,
            asked=request.args,
            limit=chosen.limit,
            families=list(Family),
            notes=remarks,
            actions=actions,
            token=generate_csrf if actions else None,
            done=request.args.get("done"),
            is_trap=is_trap,
        )

    @app.before_request
    def only_us() -> None:
        if hosts is not None and request.host.lower() not in hosts:
            abort(421, "this page answers only to its own address")

    @app.after_request
    def close(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/")
    def overview() -> str:
        return show(None, "")

    @app.get("/search")
    def search() -> Any:
        value = request.args.get("q", "").strip()
        kind = request.args.get("kind") or _kind(value)
        if not value:
            return redirect(addresses().to("/"))
        if kind not in KINDS:
            abort(400, "want sender, host or trap")
        return redirect(addresses().link(kind, value))

    @app.get("/<any(sender, host, trap):kind>/<path:value>")
    def one(kind: str, value: str) -> Any:
        if kind == "sender" and _kind(value) == "host":
            # An address of the network is no sender, and "not seen" would be the wrong answer.
            return redirect(addresses().link("host", value))
        return show(kind, value)

    if actions:

        def actor() -> str:
            """Who acts, as the proxy says; a stranger cannot send its header past a proxy."""
            if user_header is None:
                return ""
            return shown(request.headers.get(user_header, ""))[:ACTOR_MAX]

        def form(field: str) -> str:
            return request.form.get(field, "").strip()

        @app.post("/act")
        def act() -> Any:
            name, value, note = form("action"), form("value"), form("note")
            try:
                if name in acting.ASKED and form("sure") != "yes":
                    with reading(engine()) as connection:
                        asked = acting.question(connection, name, value, clock(), settings)
                    return app.jinja_env.get_template("question.html.j2").render(
                        asked=asked, name=name, value=value, note=note, at=addresses(),
                        token=generate_csrf, back=place(_kind_of(name, value), value),
                    )  # fmt: skip
                with writing(engine()) as connection:
                    at = clock()
                    done = acting.act(connection, name, value, note, at, settings, actor())
            except ValueError as error:
                abort(400, str(error))
            where = place(_kind_of(name, value), value)
            return redirect(addresses().to(where, done=done), 303)

        @app.post("/undo")
        def undo() -> Any:
            value, kind = form("value"), form("kind")
            try:
                done = acting.undo(engine(), int(form("act")), clock(), settings, actor())
            except ValueError as error:
                abort(400, str(error))
            where = place(kind, value) if kind in KINDS else "/"
            return redirect(addresses().to(where, done=done), 303)

    @app.errorhandler(CSRFError)
    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        text = shown(error.description or error.name)
        body = app.jinja_env.get_template("error.html.j2").render(
            title=error.name, text=text, root=request.script_root
        )
        return body, error.code or 500

    @app.errorhandler(TooWide)
    def too_wide(error: TooWide) -> Any:
        template = app.jinja_env.get_template("error.html.j2")
        root = request.script_root
        return template.render(title="Too wide", text=f"{error}.", root=root), 400

    @app.errorhandler(StoreError)
    def away(error: StoreError) -> Any:
        template = app.jinja_env.get_template("error.html.j2")
        why = "The store does not answer"
        root = request.script_root
        return template.render(title=why, text=str(error), root=root), 503

    return app


def addresses() -> Addresses:
    """Those of this request."""
    return Addresses.of(request.script_root, request.path, request.args.items())


def _kind_of(name: str, value: str) -> str:
    """The kind of page on which the act `name` is seen."""
    return "trap" if name in ("trap", "untrap") else _kind(value)


def _kind(value: str) -> str:
    try:
        selection.host(value)
    except ValueError:
        return "sender"
    return "host"


def _selection(kind: str | None, value: str, now: float) -> Selection:
    """The selection of a permalink and its filters. Raises ValueError."""
    given = request.args
    limit = given.get("limit") or str(LIMIT if kind else LIMIT_OVERVIEW)
    if not limit.isdecimal() or not 0 < int(limit) <= LIMIT_MAX:
        raise ValueError(f"limit: want a number from 1 to {LIMIT_MAX}")
    family = given.get("family") or None
    if family is not None and family not in list(Family):
        raise ValueError(f"family: want one of {', '.join(Family)}")
    return Selection(
        sender=selection.sender(value) if kind == "sender" else None,
        host=selection.host(value) if kind == "host" else None,
        trap=address.parse(value) if kind == "trap" else None,
        since=times.moment(given["since"], now) if given.get("since") else None,
        until=times.moment(given["until"], now) if given.get("until") else None,
        family=None if family is None else Family(family),
        limit=int(limit),
    )
