"""`milterctl report --tonight`: what somebody who is woken up wants to know first."""

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TextIO

from gatepost_milter.cli.common import App

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gatepost_policy.report.selection import Selection
    from gatepost_policy.report.tonight import Tonight


def read(app: App, connection: "Connection", until: float, since: float | None = None) -> "Tonight":
    """What happened up to `until`; without `since` in the 24 hours before (Unix seconds)."""
    from gatepost_policy import config
    from gatepost_policy.monitoring import privacy_result
    from gatepost_policy.report import tonight

    probe = privacy_result.read(config.state_dir(app.settings))
    if since is None:
        since = until - tonight.HOURS * 3600
    return tonight.read(connection, since, until, probe)


def tell(
    app: App,
    chosen: "Selection",
    now: float,
    form: str,
    output: AbstractContextManager[TextIO],
) -> None:
    """Write what happened since `chosen.since`, or in the last day, to `output`."""
    until = now if chosen.until is None else chosen.until
    with app.store(caught_up=True, replica=True) as connection:
        found = read(app, connection, until, chosen.since)
    with output as stream:
        if form == "json":
            json.dump(found.json(), stream, indent=2)
            stream.write("\n")
            return
        from gatepost_policy.render import tonight as render

        stream.write("\n".join(render.lines(found, None)) + "\n")
