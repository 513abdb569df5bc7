"""Pages beside the reports: two senders compared, and the networks of those who hit traps."""

import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from flask import Flask, Response, abort, request
from sqlalchemy import Engine

from gatepost_policy.config.settings import Settings
from gatepost_policy.render import compare as compare_text
from gatepost_policy.report import compare, networks, selection
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import reading
from gatepost_policy.text.times import timestamp
from gatepost_policy.web.addresses import Addresses


def add(
    app: Flask,
    settings: Settings,
    engine: Callable[[], Engine],
    clock: Callable[[], float],
    api: int,
) -> None:
    """Add the pages `/compare` and `/prefix` to `app`, and both as JSON. `api`: its version."""

    def shown(template: str, **values: Any) -> str:
        at = Addresses.of(request.script_root, request.path, ())
        page = app.jinja_env.get_template(template)
        return page.render(at=at, link=at.link, version=version("gatepost"), **values)

    def told(found: dict[str, Any], now: float) -> Response:
        document = {"api": api, "at": timestamp(now), **found}
        return Response(json.dumps(document), content_type="application/json")

    @app.get("/compare")
    @app.get("/compare.<any(json):extension>")
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
        if extension:
            return told(found.json(), now)
        return shown(
            "compare.html.j2", title=title, a=names[0], b=names[1], found=found,
            sides=[found.a.json(), found.b.json()], rows=compare_text.rows(found),
        )  # fmt: skip

    @app.get("/prefix")
    @app.get("/prefix.<any(json):extension>")
    def tree(extension: str | None = None) -> Any:
        with reading(engine()) as connection:
            root, cut = networks.read(connection)
        if extension:
            inner = [one.json() for one in root.shown(networks.WIDE_MAX)]
            return told({"clients": root.clients, "cut": cut, "networks": inner}, clock())
        return shown(
            "networks.html.j2", title="Networks of those who hit traps", root=root, cut=cut,
            wide_max=networks.WIDE_MAX, inner_max=networks.INNER_MAX,
            clients_shown=networks.CLIENTS_SHOWN,
        )  # fmt: skip
