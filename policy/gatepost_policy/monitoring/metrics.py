"""The metrics endpoint: /metrics for Prometheus, /healthz and /readyz for monitoring.

Counters come from the store (`counters`), where the recorder adds them up; latency and messages in
flight from the milter workers' shared file (`worker_figures`); the rest from the journal directory.
So the figures are right whichever process answers, and after a restart. When the store does not
answer, its counters are left out (not zero, which would look like a reset), and /healthz answers
503.

No address, name or queue id is ever a label.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from sqlalchemy import Engine, func, select

from gatepost_policy import config, journal
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring import counters, privacy_result, standing_still, worker_figures
from gatepost_policy.store import StoreError, open_engine, reading, tables
from gatepost_policy.system.socket_address import SocketAddress
from gatepost_policy.text.plural import plural

log = logging.getLogger(__name__)
RETRY_S = 2.0
UNAVAILABLE = "503 Service Unavailable"
# /healthz answers 503 when this part of the journal is in use, before records are lost.
RED_JOURNAL_SHARE = 0.8

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Health:
    """What is wrong now, for /healthz."""

    def __init__(self, settings: Settings, engine: Callable[[], Engine]) -> None:
        self._settings = settings
        self._engine = engine
        self._still = standing_still.StandingStill()

    def findings(self) -> list[str]:
        """One line for each problem; an empty list means that none was found."""
        found = []
        try:
            with reading(self._engine()) as connection:
                connection.execute(select(func.count()).select_from(tables.Revision))
                still = self._still.seconds(connection, config.journal_dir(self._settings))
            if still > standing_still.STILL_S:
                text = f"journal: nothing of what waits was stored for {still:.0f} s"
                found.append(f"{text}; the service's log says why")
        except StoreError as error:
            found.append(str(error))
        except OSError:
            pass  # the journal's own finding says it
        waiting, _ = journal_waiting(config.journal_dir(self._settings))
        if waiting > RED_JOURNAL_SHARE * self._settings.store.journal_max_bytes:
            found.append(
                f"journal: {waiting} bytes wait for the store; see store.journal_max_bytes"
            )
        why = journal.refused(config.journal_dir(self._settings), make=False)
        if why is not None and why.errno != errno.ENOENT:  # the first writer makes the directory
            reason = why.strerror or why
            found.append(f"journal: cannot be written, what comes may be lost: {reason}")
        lost, red = journal.LOSSES.of_host(config.state_dir(self._settings))
        if red:
            found.append(f"journal: {plural(lost, 'record')} lost since the start")
        refused = _files(config.quarantine_dir(self._settings))
        if refused:
            records = plural(refused, "record")
            found.append(f"quarantine: the store refused {records}; see milterctl check")
        return found


def journal_waiting(directory: Path) -> tuple[int, int]:
    """(octets, number of segments) in the journal, with stored parts of segments still open."""
    size = count = 0
    try:
        for entry in directory.iterdir():
            try:
                size += entry.stat().st_size
            except OSError:  # unlinked by the recorder meanwhile
                continue
            count += 1
    except OSError:
        return 0, 0
    return size, count


def _files(directory: Path) -> int:
    try:
        return sum(1 for _ in directory.iterdir())
    except OSError:
        return 0


class Collector:
    """Computes all metrics for each scrape."""

    def __init__(self, settings: Settings, engine: Callable[[], Engine]) -> None:
        self._settings = settings
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """All metrics; called by prometheus_client."""
        from importlib.metadata import version

        yield InfoMetricFamily("gatepost", "The release", value={"version": version("gatepost")})
        yield from self._journal()
        yield from self._workers()
        yield from self._privacy()
        yield from self._store()

    def _journal(self) -> Iterator[Metric]:
        size, count = journal_waiting(config.journal_dir(self._settings))
        yield GaugeMetricFamily("gatepost_journal_bytes", "Size of the journal", value=size)
        yield GaugeMetricFamily("gatepost_journal_segments", "Segments in the journal", value=count)
        yield GaugeMetricFamily(
            "gatepost_quarantine_records",
            "Records that the store refused",
            value=_files(config.quarantine_dir(self._settings)),
        )
        yield CounterMetricFamily(
            "gatepost_records_lost",
            "Records that the services of this host could not write down since they started",
            value=journal.LOSSES.of_host(config.state_dir(self._settings))[0],
        )

    def _workers(self) -> Iterator[Metric]:
        total = worker_figures.read(config.state_dir(self._settings))
        if total is None:
            return
        yield GaugeMetricFamily("gatepost_milter_workers", "Milter workers", value=total.workers)
        yield GaugeMetricFamily(
            "gatepost_milter_in_flight_messages",
            "Messages between MAIL FROM and their answer",
            value=total.in_flight,
        )
        yield CounterMetricFamily(
            "gatepost_milter_connections", "Connections from the MTA", value=total.connections
        )
        yield CounterMetricFamily(
            "gatepost_milter_exceptions",
            "Callbacks that ended in the configured stance",
            value=total.exceptions,
        )
        yield CounterMetricFamily(
            "gatepost_milter_captures_failed",
            "Trap messages that could not be kept in trap.capture",
            value=total.captures_failed,
        )
        running, buckets = 0, []
        for bound, number in zip(
            (*map(str, worker_figures.BOUNDS), "+Inf"), total.buckets, strict=True
        ):
            running += number
            buckets.append((bound, running))
        yield HistogramMetricFamily(
            "gatepost_milter_answer_seconds",
            "From the end of a message to its answer",
            buckets=buckets,
            sum_value=total.latency_seconds,
        )

    def _privacy(self) -> Iterator[Metric]:
        last = privacy_result.read(config.state_dir(self._settings))
        if last is None:
            return
        yield GaugeMetricFamily(
            "gatepost_privacy_test_timestamp_seconds",
            "When milterctl privacy test --record last ran",
            value=last.at,
        )
        clean = GaugeMetricFamily(
            "gatepost_privacy_test_clean",
            "1 where the probe of privacy test came through without a leak",
            labels=("way",),
        )
        for way, value in sorted(last.clean.items()):
            clean.add_metric((way,), int(value))
        yield clean

    def _store(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("gatepost_store_up", "1 while the store answers")
        now = time.time()
        try:
            with reading(self._engine()) as connection:
                amounts = counters.read(connection)
                listed = connection.execute(
                    select(func.count())
                    .select_from(tables.Listing)
                    .where(tables.Listing.until > now, tables.Listing.forgiven.is_(None))
                ).scalar_one()
                traps = connection.execute(
                    select(func.count())
                    .select_from(tables.TrapRow)
                    .where(tables.TrapRow.removed.is_(None))
                ).scalar_one()
        except StoreError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily("gatepost_listings", "Listings that hold now", value=listed)
        yield GaugeMetricFamily("gatepost_traps", "Traps", value=traps)
        for name, (text, labels) in counters.COUNTERS.items():
            family = CounterMetricFamily(f"gatepost_{name}", text, labels=labels)
            for (found, values), value in sorted(amounts.items()):
                if found == name and len(values) == len(labels):
                    family.add_metric(values, value)
            if not labels and (name, ()) not in amounts:
                family.add_metric((), 0)
            yield family


def readiness(settings: Settings, milter: bool) -> tuple[bool, str]:
    """(ready, text) for /readyz. `milter`: this is the milter's process, which is ready when it has
    a worker; else the policy service's, which is ready while it answers."""
    if not milter:
        return True, "ready: the policy service; the milter is not looked at here"
    total = worker_figures.read(config.state_dir(settings))
    if total is None:
        return False, "not known: no worker has written its figures (event=no-worker-metrics)"
    if not total.workers:
        return False, "not ready: the milter has no worker"
    return True, f"ready: {plural(total.workers, 'milter worker')}"


def application(settings: Settings, engine: Callable[[], Engine], milter: bool) -> Any:
    """The WSGI application behind `metrics.listen`. `milter`: in the milter's process, not in the
    policy service's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(settings, engine))
    metrics = make_wsgi_app(registry)
    health = Health(settings, engine)

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            body: Iterable[bytes] = metrics(environ, start_response)
            return body
        if path == "/readyz":
            ready, words = readiness(settings, milter)
            return _text(start_response, "200 OK" if ready else UNAVAILABLE, [words])
        if path == "/healthz":
            found = health.findings()
            status = UNAVAILABLE if found else "200 OK"
            return _text(start_response, status, found or ["ok"])
        return _text(start_response, "404 Not Found", ["want /metrics, /healthz or /readyz"])

    return answer


def _text(start_response: StartResponse, status: str, lines: list[str]) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return ["".join(f"{line}\n" for line in lines).encode()]


class _Quiet(WSGIRequestHandler):
    """A request handler that logs nothing: Prometheus comes every 15 s or so."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""
        return

    def address_string(self) -> str:
        """The client's address; "unix" where it has none, on a unix socket."""
        return str(self.client_address[0]) if self.client_address else "unix"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: SocketAddress) -> None:
        from gatepost_policy.system import sockets

        self.address_family = sockets.family(address)
        self._unix = address.kind == "unix"
        if self._unix:
            sockets.remove_stale(address.path)
        target: Any = sockets.target(address)
        super().__init__(target, _Quiet)

    def server_bind(self) -> None:
        """Bind the socket; also a unix one. Raises OSError."""
        if not self._unix:
            super().server_bind()
            return
        # The base class looks up host and port, which a unix socket does not have.
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()


def start(
    settings: Settings, stop: threading.Event, *, milter: bool = False
) -> list[threading.Thread]:
    """Serve `metrics.listen` from daemon threads until `stop` is set. Call it after any fork.

    Milter and policy service may both call this: the first one answers, the other one waits for
    the socket and takes over when the first has gone.
    """
    engines: list[Engine] = []
    lock = threading.Lock()

    def engine() -> Engine:
        with lock:
            if not engines:
                engines.append(open_engine(settings, create=False))
            return engines[0]

    app = application(settings, engine, milter)
    threads = [
        threading.Thread(target=_serve, args=(a, app, stop), name=f"metrics {a}", daemon=True)
        for a in settings.metrics.listen
    ]
    for thread in threads:
        thread.start()
    return threads


def _serve(address: SocketAddress, app: Any, stop: threading.Event) -> None:
    told = False
    while not stop.is_set():
        try:
            server = _Server(address)
        except OSError as error:
            if not told:
                log.info("metrics.listen %s: %s; trying again", address, error.strerror)
                told = True
            stop.wait(RETRY_S)
            continue
        with server:
            server.set_app(app)
            watcher = threading.Thread(target=_close, args=(server, stop), daemon=True)
            watcher.start()
            server.serve_forever(poll_interval=0.5)


def _close(server: _Server, stop: threading.Event) -> None:
    stop.wait()
    server.shutdown()
