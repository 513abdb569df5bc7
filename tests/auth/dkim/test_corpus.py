"""The verifier on a corpus of other projects' test messages, with what those projects expect.

`make corpus CORPUS=DIR` prints the table. A disagreement is fine only in one of the classes below;
one that is in none of them fails. The corpus is not part of this project: without
$GATEPOST_CORPUS these tests are skipped, and say so.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dkim
import pytest

from daemons import BIN, Process
from dkimkit import AT, join, split, verify
from dkimpy_peer import WRONG, theirs
from gatepost_milter.mta import client, queue_file
from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.authresults import value
from gatepost_policy.mail.facts import Signature
from rings import missing

pytestmark = pytest.mark.corpus

# What upstream gets wrong, or decides by its own settings where the manifest does not say so.
BUGS = {
    # A key that t=s forbids is passed over like a wrong one: "fail" for a signature that was never
    # computed. RFC 6376 3.6.1, t=; RFC 8601 2.7.1 calls that permerror.
    "dkim/chasquid/11-strict_domain_check_fail.eml":
        "https://github.com/albertito/chasquid/blob/76a72367aefa/internal/dkim/verify.go",
}  # fmt: skip
CONFIGURED = {
    "dkim/opendkim/lua_t-verify-double-from.eml": "StrictHeaders refuses two From fields",
}


@pytest.fixture(scope="module")
def corpus() -> Path:
    where = os.environ.get("GATEPOST_CORPUS")
    if not where or not (Path(where) / "dkim" / "dkim-manifest.jsonl").is_file():
        missing("corpus", "GATEPOST_CORPUS names no directory with dkim/dkim-manifest.jsonl")
    return Path(where)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)


def difference(row: dict[str, Any], want: str | None, got: Signature) -> str | None:
    """The class of a disagreement; None: they agree; a text with `?`: it is in no class."""
    if want is None or want == got.result:
        return None
    if got.reason == "weak-hash":
        return "RFC 8301: sha1"
    if got.reason == "weak-key":
        return "RFC 8301: key under 1024 bits"
    if got.reason == "version":
        return "RFC 6376 3.5: v= not 1"
    if row["file"] in BUGS:
        return f"upstream's bug: {BUGS[row['file']]}"
    if row.get("config_or_policy_specific") or row["file"] in CONFIGURED:
        return "upstream's own configuration"
    return f"? want {want}, got {got.result} ({got.reason})"


def test_every_upstream_expectation(corpus: Path) -> None:
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    classes: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows(corpus / "dkim" / "dkim-manifest.jsonl"):
        source = row["file"].split("/")[1]
        wants = [expected["result"] for expected in row["expected"]]
        if not row["dns_available"] or not any(wants):
            table[source]["no upstream result or no key"] += 1
            continue
        header, body = split((corpus / row["file"]).read_bytes())
        outcome = verify(header, body, row["dns"], at=row.get("verify_at") or AT)
        table[source]["rows"] += 1
        if len(outcome.signatures) != len(wants):
            classes[f"? {len(wants)} signatures, found {len(outcome.signatures)}"].append(
                row["file"]
            )
        for index, (want, got) in enumerate(zip(wants, outcome.signatures, strict=False)):
            found = difference(row, want, got)
            table[source]["agree" if found is None else "differ"] += want is not None
            if found is not None:
                of = f"{row['file']} ({index}): {want}, here {got.result}/{got.reason}"
                classes[found].append(f"{of}, crypto {got.crypto}")
    print(f"\n{'source':28}{'rows':>6}{'agree':>7}{'differ':>8}{'left out':>10}")
    total: Counter[str] = Counter()
    for source, count in sorted(table.items()):
        total += count
        print(_line(source, count))
    print(_line("total", total))
    for name, found_in in sorted(classes.items()):
        print(f"\n{name}: {len(found_in)}")
        print("".join(f"    {text}\n" for text in found_in), end="")
    assert total["agree"] > 100
    assert not [name for name in classes if name.startswith("?")]


def _line(name: str, count: Counter[str]) -> str:
    left_out = count["no upstream result or no key"]
    return f"{name:28}{count['rows']:>6}{count['agree']:>7}{count['differ']:>8}{left_out:>10}"


def test_weak_ones_are_still_computed_as_upstream_did(corpus: Path) -> None:
    """`crypto` keeps our history comparable: where RFC 8301 alone stands between, it agrees."""
    compared = 0
    for row in rows(corpus / "dkim" / "dkim-manifest.jsonl"):
        if not row["dns_available"] or row.get("config_or_policy_specific"):
            continue
        header, body = split((corpus / row["file"]).read_bytes())
        outcome = verify(header, body, row["dns"], at=row.get("verify_at") or AT)
        for expected, got in zip(row["expected"], outcome.signatures, strict=False):
            if got.result == "policy" and expected["result"] in ("pass", "fail"):
                assert got.crypto == expected["result"], row["file"]
                compared += 1
    assert compared > 20


def test_every_arc_chain(corpus: Path) -> None:
    seen: Counter[str] = Counter()
    for row in rows(corpus / "dkim" / "arc-manifest.jsonl"):
        header, body = split((corpus / row["file"]).read_bytes())
        arc = verify(header, body, row["dns"]).arc
        got = "none" if arc is None else arc.cv
        want = row["expected_cv"].lower()
        if arc is not None and arc.reason == "chain-failed-before":
            # The suite is of a draft. RFC 8617 5.2, step 2: the newest seal says cv=fail, and so
            # the chain is failed, not absent.
            assert want == "none"
            want = "fail"
        assert got == want, (row["file"], arc)
        seen[got] += 1
    print(f"\nARC chains, all as expected: {dict(seen)}")
    assert sum(seen.values()) == 102


def test_dkimpy_agrees_on_every_message(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passed here and refused there, or the other way: only for a named error of dkimpy."""
    lenient = {row.right[1] for row in WRONG if row.wrong == "pass"}
    strict = {row.wrong for row in WRONG if row.right[0] == "pass"} | {"KeyFormatError"}
    dns_of = defaultdict(list)
    for row in rows(corpus / "dkim" / "dkim-manifest.jsonl"):
        dns_of[row["file"]].append((row["dns"], row.get("verify_at") or AT))
    seen: Counter[tuple[str, str]] = Counter()
    settings = Dkim(clock_skew=36_000)  # dkimpy's own leeway
    for path in sorted((corpus / "dkim").rglob("*")) + sorted((corpus / "eml").rglob("*")):
        name = str(path.relative_to(corpus))
        if not path.is_file() or path.suffix in (".jsonl", ".md"):
            continue
        header, body = split(path.read_bytes())
        for dns, at in dns_of.get(name) or [({}, AT)]:
            monkeypatch.setattr(dkim, "time", SimpleNamespace(time=lambda at=at: at))
            outcome = verify(header, body, dns, at=at, settings=settings)
            for index, got in enumerate(outcome.signatures[:10]):
                want = theirs(join(header, body), dns, index)
                ours = "pass" if got.result == "pass" or got.crypto == "pass" else "no"
                seen[ours, "pass" if want == "pass" else "no"] += 1
                if want == "pass" and ours != "pass":
                    assert got.reason in lenient, (name, got)
                elif want != "pass" and ours == "pass":
                    assert want in strict, (name, index, want, got)
                    assert want != "KeyFormatError" or (got.key_bits or 0) < 1024
    print(f"\n(ours, dkimpy's): {dict(seen)}")
    assert seen["pass", "pass"] > 50


def test_the_milter_says_the_same(corpus: Path, tmp_path: Path) -> None:
    """Every message through the real milter, its DNS and time played back: the same results."""
    socket = f"unix:{tmp_path}/m.sock"
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'[milter]\nsocket = "{socket}"\nworkers = 1\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/gatepost.sqlite"\n'
    )
    command: list[str | Path] = [BIN / "gatepost-milter", "--replay", "--config", config]
    daemon = Process(command, tmp_path / "log")
    compared = 0
    try:
        daemon.wait_for("ready")
        for name in ("dkim-manifest.jsonl", "arc-manifest.jsonl"):
            for row in rows(corpus / "dkim" / name):
                raw = (corpus / row["file"]).read_bytes()
                at = row.get("verify_at") or AT
                header, body = split(raw)
                outcome = verify(header, body, row["dns"], at=at)
                want = value("mx.example.net", outcome.signatures, outcome.arc)
                macros = {"{gatepost_at}": str(at), "{gatepost_dns}": json.dumps(row["dns"])}
                result = client.send(socket, queue_file.crlf(raw), macros=macros)
                marks = [e for e in result.edits if e.op == "insert"]
                (mark,) = marks
                clauses = (mark.value or "").split(";\n\t")
                told = [c for c in clauses if not c.startswith(("spf=", "dmarc="))]
                # In a line as long as it may be, SPF and DMARC take the place of signatures.
                wanted = want.split(";\n\t")
                seen = list(dict.fromkeys(told))
                assert [c for c in dict.fromkeys(wanted) if c in seen] == seen, row["file"]
                assert len(told) == len(wanted) or len(mark.value or "") > 600, row["file"]
                compared += 1
    finally:
        daemon.stop()
    assert compared == 341
    assert "exception" not in daemon.text()
