"""Pages beside the reports: two senders compared, and the networks of those who hit traps."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

from flask import Flask, Response, abort, request
from sqlalchemy import Engine

from gatepost_policy.config.settings import Settings
from gatepost_policy.render import compare as compare_text
from gatepost_policy.render import csv_file
from gatepost_policy.report import compare, networks, selection
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import reading
from gatepost_policy.text.times import timestamp
from gatepost_policy.web.addresses import Addresses

NETWORK = ("network", "clients", "messages", "trap_messages", "first_seen", "last_seen")


def _network(one: networks.Network) -> tuple[str | int, ...]:
    first, last = timestamp(one.first), timestamp(one.last)
    return one.prefix, one.clients, one.messages, one.trap_messages, first, last


def table(columns: Sequence[str], rows: Iterable[Sequence[str | int | None]]) -> Response:
    """An answer with `rows` as CSV."""
    out = io.StringIO()
    csv_file.table(columns, rows, out)
    return Response(out.getvalue(), content_type="text/csv; charset=utf-8")


def add(
    app: Flask,
    settings: Settings,
    engine: Callable[[], Engine],
    clock: Callable[[], float],
    api: int,
) -> None:
    """Add the pages `/compare` and `/prefix` to `app`, and both as JSON and CSV.

    `api`: the version of the JSON."""

    def shown(template: str, **values: Any) -> str:
        at = Addresses.of(request.script_root, request.path, ())
        page = app.jinja_env.get_template(template)
        return page.render(at=at, link=at.link, version=version("gatepost"), **values)

    def told(found: dict[str, Any], now: float) -> Response:
        document = {"api": api, "at": timestamp(now), **found}
        return Response(json.dumps(document), content_type="application/json")

    @app.get("/compare")
    @app.get("/compare.<any(json, csv):extension>")
    def two(extension: str | None = None) -> Any:
        now = clock()
        names = [request.args.get(name, "").strip() for name in ("a", "b")]
        title = "Are these two the same hand?"
        if not all(names):
            if extension:
                abort(400, "want a and b: two senders.")
            return shown("compare.html.j2", title=title, a=names[0], b=names[1], found=None)
        try:
            a, b = (Selection(sender=selection.sender(name)) for name in names)
        except ValueError as error:
            abort(400, f"{error}.")
        with reading(engine()) as connection:
            found = compare.read(connection, a, b, settings, now)
        if extension == "csv":
            rows = [(name, *cells) for name, cells in compare_text.rows(found)]
            return table(("what", "a", "b"), [("sender", *names), *rows])
        if extension:
            return told(found.json(), now)
        return shown(
            "compare.html.j2", title=title, a=names[0], b=names[1], found=found,
            sides=[found.a.json(), found.b.json()], rows=compare_text.rows(found),
        )  # fmt: skip

    @app.get("/prefix")
    @app.get("/prefix.<any(json, csv):extension>")
    def tree(extension: str | None = None) -> Any:
        with reading(engine()) as connection:
            root, cut = networks.read(connection)
        if extension == "csv":
            return table(NETWORK, (_network(one) for one in root.all()))
        if extension:
            inner = [one.json() for one in root.shown(networks.WIDE_MAX)]
            return told({"clients": root.clients, "cut": cut, "networks": inner}, clock())
        return shown(
            "networks.html.j2", title="Networks of those who hit traps", root=root, cut=cut,
            wide_max=networks.WIDE_MAX, inner_max=networks.INNER_MAX,
            clients_shown=networks.CLIENTS_SHOWN,
        )  # fmt: skip
