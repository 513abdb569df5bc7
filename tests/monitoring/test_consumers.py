"""What monitoring systems are given, tried with their own tools."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import rings
from from_table import from_table
from gatepost_policy.config.settings import Metrics, Settings, Store
from gatepost_policy.monitoring import counters, metrics, privacy_result, worker_figures
from gatepost_policy.store import open_engine, writing
from metrics_records import MESSAGE, SUBMISSION, get
from ports import free_port

CONF = Path(__file__).parents[2] / "conf"
PLUGIN = CONF / "munin" / "gatepost"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint with a few figures in it."""
    directory = tmp_path_factory.mktemp("metrics")
    settings = Settings(
        store=Store(url=f"sqlite:///{directory}/gatepost.sqlite"),
        metrics=from_table(Metrics, {"listen": f"inet:{free_port()}@127.0.0.1"}),
    )
    with writing(open_engine(settings)) as connection:
        counters.add(connection, counters.tally([MESSAGE, MESSAGE, SUBMISSION]))
    worker_figures.create(directory)
    worker_figures.Slot(directory / worker_figures.NAME, 0).answered(0.002)
    privacy_result.write(directory, privacy_result.Result(time.time(), {"smtpd": True}))
    stop = threading.Event()
    metrics.start(settings, stop)
    yield f"http://127.0.0.1:{settings.metrics.listen[0].port}"
    stop.set()


def tool(name: str) -> str:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        rings.missing("tools", f"{name} is not installed")
    return found


def plugin(word: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PLUGIN), *filter(None, [word])],
        env={"url": url, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_munin_plugin(url: str) -> None:
    assert get(url + "/readyz")[0] == 200
    assert plugin("autoconf", url).stdout == "yes\n"
    fields = re.findall(r"^(\w+)\.label", plugin("config", url).stdout, re.M)
    values = dict(re.findall(r"^(\w+)\.value (\S+)$", plugin("", url).stdout, re.M))
    assert sorted(fields) == sorted(values)
    want = {"ipv6": "2", "pass": "2", "permerror": "2", "hits": "2", "own": "1", "store": "1"}
    assert {name: values[name] for name in want} == want


def test_munin_plugin_without_an_endpoint() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    assert plugin("autoconf", away).stdout.startswith("no (")
    fetched = plugin("", away)
    assert fetched.returncode == 1
    assert fetched.stderr.count("\n") == 1 and "Traceback" not in fetched.stderr


@pytest.mark.tools
def test_munin_run_accepts_it(url: str, tmp_path: Path) -> None:
    """munin's own runner, with directories of the test's own."""
    munin_run = tool("munin-run")
    plugins, settings = tmp_path / "plugins", tmp_path / "plugin-conf.d"
    plugins.mkdir()
    settings.mkdir()
    shutil.copy(PLUGIN, plugins / "gatepost")
    (settings / "gatepost").write_text(f"[gatepost]\nenv.url {url}\nuser root\n")
    node = tmp_path / "munin-node.conf"
    node.write_text("host_name test.example\nuser root\ngroup root\n")
    command = [munin_run, "--config", str(node), "--servicedir", str(plugins),
               "--sconfdir", str(settings), "--ignore-systemd-properties", "gatepost"]  # fmt: skip
    for word in ("autoconf", "config", ""):
        done = subprocess.run(
            [*command, *filter(None, [word])], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout, word


@pytest.mark.tools
def test_promtool_accepts_the_metrics(url: str) -> None:
    promtool = tool("promtool")
    text = get(url + "/metrics")[1]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.tools
def test_promtool_accepts_the_alerts() -> None:
    promtool = tool("promtool")
    alerts = CONF / "prometheus" / "gatepost-alerts.yml"
    done = subprocess.run(
        [promtool, "check", "rules", str(alerts)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


LOST = "The journal could not take 3 records; mail flows, history has a gap."
DEAD = "No milter worker is alive. Submissions are refused, inbound mail is not looked at."
LEAK = (
    "The probe by way smtpd leaked, or did not come through. "
    "Submitted mail may tell where it comes from."
)
# What happens: series (in Prometheus's notation, a value a minute), alert, minute, what it says.
# An empty text: the alert is silent then.
STORIES = {
    "all well": (
        {"up": "1x200", "gatepost_milter_workers": "2x200", "gatepost_journal_lost_total": "7x200",
         "gatepost_privacy_test_clean": "1x200"},
        [(name, 100, "") for name in ("GatepostNoWorkers", "GatepostStoreAway", "GatepostLeaks",
                                      "GatepostLosesRecords", "GatepostNotWatched")],
    ),
    "it dies": (
        {"up": "1x10 0x100", "gatepost_milter_workers": "2x10 stale _x99",
         "gatepost_store_up": "1x10 stale _x99"},
        [("GatepostNoWorkers", 8, ""), ("GatepostNoWorkers", 40, DEAD),
         ("GatepostNoWorkers", 100, DEAD), ("GatepostStoreAway", 40, "")],
    ),
    "the milter dies, the policy service answers": (
        {"up": "1x100", "gatepost_milter_workers": "2x10 stale _x89"},
        [("GatepostNoWorkers", 8, ""), ("GatepostNoWorkers", 60, DEAD)],
    ),
    "a policy service without a milter": (
        {"up": "1x100"},
        [("GatepostNoWorkers", 60, "")],
    ),
    "records are lost while the store is away": (
        {"up": "1x200", "gatepost_journal_lost_total": "7x30 _x60 10x100"},
        [("GatepostLosesRecords", 29, ""), ("GatepostLosesRecords", 95, LOST)],
    ),
    "a leak": (
        {"up": "1x60", 'gatepost_privacy_test_clean{way="smtpd"}': "1x10 0x50"},
        [("GatepostLeaks", 8, ""), ("GatepostLeaks", 20, LEAK)],
    ),
    "the probe stops": (
        {"up": "1x4000", "gatepost_privacy_test_timestamp_seconds": "0x4000"},
        [("GatepostProbeStopped", 2800, ""),
         ("GatepostProbeStopped", 2900,
          "The privacy test has not run for two days. Whether mail leaks is not known.")],
    ),
}  # fmt: skip


@pytest.mark.tools
def test_alerts_tell_the_dead_from_the_quiet(tmp_path: Path) -> None:
    """Each story is played to the alerts by Prometheus's own engine."""
    rules = CONF / "prometheus" / "gatepost-alerts.yml"
    severities = dict(
        re.findall(r"- alert: (\w+)\n(?:(?!- alert).)*?severity: (\w+)", rules.read_text(), re.S)
    )
    tests = []
    for name, (series, wanted) in STORIES.items():
        expected = []
        for alert, minute, summary in wanted:
            labels = {"severity": severities[alert], "job": "gatepost"}
            if alert == "GatepostLeaks":
                labels["way"] = "smtpd"
            fires = [{"exp_labels": labels, "exp_annotations": {"summary": summary}}]
            expected.append(
                {"eval_time": f"{minute}m", "alertname": alert,
                 "exp_alerts": fires if summary else []}
            )  # fmt: skip
        tests.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": [
                    {"series": _in_job(text), "values": values} for text, values in series.items()
                ],
                "alert_rule_test": expected,
            }
        )
    # Every JSON text is YAML.
    path = tmp_path / "stories.yml"
    path.write_text(
        json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _in_job(series: str) -> str:
    name, brace, labels = series.partition("{")
    return f'{name}{{job="gatepost"' + (f", {labels}" if brace else "}")


def test_dashboard_and_alerts_name_only_metrics_there_are(url: str) -> None:
    known = set(re.findall(r"^# TYPE (\w+)", get(url + "/metrics")[1], re.M))
    known |= {f"{name}{end}" for name in known for end in ("_bucket", "_count", "_sum")}
    dashboard = (CONF / "prometheus" / "gatepost-dashboard.json").read_text()
    expressions = [t["expr"] for p in json.loads(dashboard)["panels"] for t in p["targets"]]
    expressions.append((CONF / "prometheus" / "gatepost-alerts.yml").read_text())
    named = {name for text in expressions for name in re.findall(r"\bgatepost_\w+", text)}
    assert len(named) > 10
    assert named <= known


def dashboard() -> list[Any]:
    text = (CONF / "prometheus" / "gatepost-dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    assert isinstance(panels, list) and panels
    return panels


def test_dashboard_is_made_as_grafana_wants_it() -> None:
    """The facts of its schema that a hand can break. No Grafana is asked: there is none here."""
    panels = dashboard()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}, panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"])
                 for y in range(place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        if panel["type"] != "stat":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        # The lowest step has no number: it holds from below all of them.
        assert steps[0] is None and steps[1:] == sorted(steps[1:]), panel["title"]
        shown = [m for m in defaults["mappings"] if m["type"] == "special"]
        assert shown[0]["options"]["result"]["text"] == "not known", panel["title"]


@pytest.mark.tools
def test_prometheus_answers_every_query(url: str, tmp_path: Path) -> None:
    """A real Prometheus scrapes the endpoint, and is asked what the dashboard and alerts ask."""
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{CONF}/prometheus/gatepost-alerts.yml']\n"
        "scrape_configs:\n- job_name: gatepost\n  static_configs:\n"
        f"  - targets: ['{url.removeprefix('http://')}']\n"
    )
    command = [
        tool("prometheus"), f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as server:
        try:

            def ask(query: str) -> list[Any]:
                words = urlencode({"query": query})
                told = json.loads(get(f"http://127.0.0.1:{port}/api/v1/query?{words}")[1])
                assert told["status"] == "success", (query, told)
                return list(told["data"]["result"])

            def scraped() -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                with suppress(OSError, ValueError):  # it answers before it is ready
                    found = ask('count_over_time(up{job="gatepost"}[1m])')
                    return bool(found) and int(found[0]["value"][1]) >= 3
                return False

            late = time.monotonic() + 60
            while not scraped():
                assert time.monotonic() < late, (tmp_path / "log").read_text()
                threading.Event().wait(0.2)
            empty = []
            for panel in dashboard():
                for target in panel["targets"]:
                    query = target["expr"].replace("$__rate_interval", "1m")
                    if not ask(query):
                        empty.append((panel["title"], target["expr"]))
            # Of what has not happened yet there is no series; the rest is answered with figures.
            assert [title for title, _ in empty if title in (
                "Answers a scrape", "Workers", "Store", "Listings", "Traps", "Mail by family",
                "Own users: what became of their mail", "Privacy test", "Since the privacy test",
                "Own users at traps, last day", "Trap hits an hour", "Journal",
            )] == [], empty  # fmt: skip
            rules = json.loads(get(f"http://127.0.0.1:{port}/api/v1/rules")[1])["data"]["groups"]
            assert rules and all(rule["health"] in ("ok", "unknown") for rule in rules[0]["rules"])
        finally:
            server.terminate()
            server.wait(20)
