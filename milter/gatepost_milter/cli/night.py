"""`milterctl report --tonight`: the first things to know for somebody who is woken by an alarm."""

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TextIO

from gatepost_milter.cli.common import App

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gatepost_policy.report.selection import Selection
    from gatepost_policy.report.tonight import Tonight


def read(app: App, connection: "Connection", until: float, since: float | None = None) -> "Tonight":
    """What happened from `since` (None: 24 hours before) to `until`, both Unix seconds. Raises
    StoreError."""
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
    """Write what happened since `chosen.since`, or in the last day, to `output`; `form`: "json",
    else text. `now`: Unix seconds. Raises StoreError."""
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
