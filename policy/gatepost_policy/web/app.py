"""The live page as a WSGI application: search, history with filters, permalinks, actions.

Rendered on the server, without JavaScript; the content security policy forbids any. Read-only
unless `actions` is set; then every form carries a CSRF token. A request must name this host in its
Host field; otherwise another site could point its own name at this address and read the page in
the user's browser (DNS rebinding).
"""

import io
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from flask import Flask, Response, abort, redirect, request
from flask_wtf.csrf import CSRFError, CSRFProtect, generate_csrf
from jinja2 import ChoiceLoader, PackageLoader
from sqlalchemy import Engine
from werkzeug.exceptions import HTTPException

from gatepost_policy import config, traps
from gatepost_policy.config import own_names
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import trap_marks
from gatepost_policy.monitoring import privacy_result
from gatepost_policy.notify import feed, notices
from gatepost_policy.render import csv_file
from gatepost_policy.render import why as why_text
from gatepost_policy.render.html import charts, page
from gatepost_policy.report import asked as asking
from gatepost_policy.report import (
    by_trap,
    filters,
    gropers,
    history,
    holding,
    hours,
    selection,
    series,
    tonight,
    why,
)
from gatepost_policy.report.by_trap import ByTrap
from gatepost_policy.report.conditions import TooWide
from gatepost_policy.report.gropers import Gropers
from gatepost_policy.report.hours import Hours
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.series import Series
from gatepost_policy.report.tonight import Tonight
from gatepost_policy.store import StoreError, reading, writing
from gatepost_policy.text import times
from gatepost_policy.text.escape import shown
from gatepost_policy.web import actions as acting
from gatepost_policy.web import case, more, permalink
from gatepost_policy.web.addresses import Addresses, Value, place
from gatepost_policy.web.sharing import Shared

ACTOR_MAX = 100
KINDS = ("sender", "host", "trap", "name")
API = 1  # version of the pages' JSON: raised when a key changes its meaning or is removed
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Told:
    """What one page is made of. The report lists the messages after the first `skip`."""

    at: float  # as of when, in Unix seconds
    chosen: Selection
    report: Report
    series: Series | None
    tonight: Tonight | None
    skip: int
    is_trap: bool
    notes: list[str]
    hours: Hours | None = None
    finders: ByTrap | None = None
    gropers: Gropers | None = None


def create(
    settings: Settings,
    engine: Callable[[], Engine],
    *,
    hosts: frozenset[str] | None,
    actions: bool = False,
    user_header: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Flask:
    """The application. `hosts`: the values of Host that are accepted, in lower case; None: any (on
    a unix socket). `user_header`: the field in which a proxy names the user, kept with each act.
    `clock`: gives Unix seconds. `engine` is called for each request that reads the store."""
    app = Flask("gatepost_policy.web", static_folder=None)
    # Known to this process only: after a restart older tokens are no longer accepted.
    app.config.update(SECRET_KEY=secrets.token_bytes(32), SESSION_COOKIE_SAMESITE="Strict")
    app.config.update(WTF_CSRF_TIME_LIMIT=None, MAX_CONTENT_LENGTH=16_384)
    # Before the first use of jinja_env: Flask would not escape templates named *.j2.
    app.select_jinja_autoescape = lambda filename: True  # type: ignore[method-assign]
    app.jinja_loader = ChoiceLoader(  # pyright: ignore[reportAttributeAccessIssue]
        [PackageLoader("gatepost_policy.web"), PackageLoader("gatepost_policy.render.html")]
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(page.FILTERS)
    # A local part may have slashes, also two in a row (RFC 5321 4.1.2): they are not merged.
    app.url_map.merge_slashes = False
    app.url_map.converters["value"] = Value
    if actions:
        CSRFProtect(app)

    sayings = acting.Sayings(app.config["SECRET_KEY"])

    shared: Shared[Told] = Shared()

    def tell(kind: str | None, value: str) -> Told:
        asked = (kind, value, tuple(request.args.items(multi=True)))
        return shared.of(asked, lambda: work_out(kind, value, clock()))

    def work_out(kind: str | None, value: str, now: float) -> Told:
        try:
            chosen, skip = permalink.read(kind, value, request.args, now)
        except ValueError as error:
            abort(400, str(error))
        with suppress(StoreError):  # a busy store, or a replica: what can be read is still shown
            trap_marks.settle_soon(engine(), settings, seconds=1.0)
        with reading(engine()) as connection:
            held, less = holding.hold(connection, chosen)
            report = history.tell(connection, held, settings, now, marks=charts.MARKS_MAX + 1)
            report = replace(report, messages=report.messages[skip:], held=less)
            probe = privacy_result.read(config.state_dir(settings))
            since = now - tonight.HOURS * 3600
            return Told(
                now,
                chosen,
                report,
                series.of(connection, held, report, now),
                tonight.read(connection, since, now, probe) if not report.query else None,
                skip,
                kind == "trap" and traps.is_live(connection, value),
                acting.notes(connection, value) if kind in ("sender", "host") else [],
                hours.read(connection, held) if kind else None,
                by_trap.read(connection, held.trap) if kind == "trap" and held.trap else None,
                gropers.read(connection) if not report.query else None,
            )

    def show(kind: str | None, value: str) -> str:
        at = addresses()
        told = tell(kind, value)
        now = told.at
        limit = told.chosen.limit - told.skip
        more = told.skip + len(told.report.messages) < told.report.summary.messages
        older = more and told.chosen.limit + limit <= permalink.LIMIT_MAX
        kept = {} if "limit" not in request.args else {"limit": str(limit)}
        skipped = {} if not told.skip else {"skip": str(told.skip)}
        template = app.jinja_env.get_template("live.html.j2")
        return template.render(
            page.context(told.report, told.series, at.link, at.zoom, now, told.skip),
            **page.beside(told.hours, told.finders, told.gropers),
            at=at,
            kind=kind,
            value=value,
            asked=request.args,
            limit=limit,
            filter_fields=filters.FILTERS,
            tonight=told.tonight,
            notes=told.notes,
            actions=actions,
            token=generate_csrf if actions else None,
            done=sayings.read(request.args.get("done")),
            is_trap=told.is_trap,
            older=at.shift(told.chosen.limit, **kept) if older else None,
            form=lambda extension: at.form(extension, **kept, **skipped),
            newer=at.shift(max(0, told.skip - limit), **kept) if told.skip else None,
            messages_link=lambda number: at.link("message", str(number)),
        )

    def data(kind: str | None, value: str, extension: str) -> Response:
        """The same report for programs; docs/report.md has its keys."""
        told = tell(kind, value)
        if extension == "csv":
            out = io.StringIO()
            csv_file.write(told.report, out)
            return Response(out.getvalue(), content_type="text/csv; charset=utf-8")
        found = {"api": API, "at": times.timestamp(told.at), **told.report.json()}
        if told.tonight is not None:
            found["tonight"] = told.tonight.json()
        if told.finders is not None:
            found["finders"] = told.finders.json()
        if told.gropers is not None and told.gropers.hosts:
            found["login_gropers"] = told.gropers.summary()
        return Response(json.dumps(found), content_type="application/json")

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

    @app.get("/overview.<any(json, csv):extension>")
    def overview_data(extension: str) -> Response:
        return data(None, "", extension)

    @app.get("/events.atom")
    def events() -> Response:
        now = clock()
        with reading(engine()) as connection:
            found = notices.newest(connection, feed.MOST)
            name = str(notices.state(connection, "seen")[1].get("name", ""))
        document = feed.document(settings.notify, found, name, now)
        return Response(document, content_type=feed.TYPE)

    @app.get("/search")
    def search() -> Any:
        value = request.args.get("q", "").strip()
        kind = request.args.get("kind")
        if not value:
            return redirect(addresses().to("/"))
        if kind:
            if kind not in KINDS:
                abort(400, f"want one of {', '.join(KINDS)}")
            return redirect(addresses().link(kind, value))
        try:
            with reading(engine()) as connection:
                asked = asking.ask(connection, value, Selection())
                found = why.find(connection, value) if asked.message and asked.known else []
        except ValueError as error:
            abort(400, f"{error}.")
        if asked.message:
            if not found:
                abort(404, f"{shown(value)}: {asked.sentence}")
            return redirect(addresses().link("message", str(found[0])))
        chosen = asked.selection
        if chosen.host is not None:
            return redirect(addresses().link("host", chosen.query()["host"]))
        if chosen.trap is not None:
            return redirect(addresses().link("trap", chosen.trap.raw))
        if chosen.name is not None:
            return redirect(addresses().link("name", chosen.name))
        return redirect(addresses().link("sender", chosen.sender or value))

    @app.get("/message/<int:number>")
    @app.get("/message/<int:number>.<any(json, csv):extension>")
    def message(number: int, extension: str | None = None) -> Any:
        now = clock()
        with reading(engine()) as connection:
            own = own_names.read(config.state_dir(settings))
            told = why.tell(connection, [number], settings, now, own)
        if told is None:
            abort(404, "no message has this number, or retention has taken it")
        if extension == "csv":
            return more.table(("part", "name", "text"), why_text.parts(told))
        if extension:
            found = {"api": API, "at": times.timestamp(now), **told.json()}
            return Response(json.dumps(found), content_type="application/json")
        at = addresses()
        return app.jinja_env.get_template("message.html.j2").render(
            why=told, at=at, link=at.link, title=told.line.queue_id or f"message {number}",
            seen=why_text.pairs(why_text.message_rows(told)),
            known=why_text.pairs(why_text.known_rows(told)),
            differs=why_text.differs(told) if told.then is not None else "",
            explained=why_text.explained, version=version("gatepost"),
        )  # fmt: skip

    @app.get("/<any(sender, host, trap, name):kind>/<value:value>")
    def one(kind: str, value: str) -> Any:
        bare, dot, extension = value.rpartition(".")
        if dot and extension in ("json", "csv"):
            return data(kind, bare, extension)
        if kind == "sender" and _kind(value) == "host":
            # An IP address is a host: as a sender the page would say that it was never seen.
            return redirect(addresses().link("host", value))
        return show(kind, value)

    more.add(app, settings, engine, clock, API)
    case.add(
        app,
        settings,
        engine,
        clock,
        lambda kind, value, at: permalink.read(kind, value, request.args, at)[0],
    )

    if actions:

        def actor() -> str:
            """Who acts, as the proxy says; the proxy must replace this field in every request."""
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
                shared.changed()
            except ValueError as error:
                abort(400, str(error))
            where = place(_kind_of(name, value), value)
            return redirect(addresses().to(where, done=sayings.sign(done)), 303)

        @app.post("/undo")
        def undo() -> Any:
            value, kind = form("value"), form("kind")
            try:
                done = acting.undo(engine(), int(form("act")), clock(), settings, actor())
                shared.changed()
            except ValueError as error:
                abort(400, str(error))
            where = place(kind, value) if kind in KINDS else "/"
            return redirect(addresses().to(where, done=sayings.sign(done)), 303)

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
    """The URLs of this request, with its filters."""
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
