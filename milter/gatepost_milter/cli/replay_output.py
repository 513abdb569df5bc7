"""Print the outcomes of replays: one JSON object a line, blocks of text, or the differences."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatepost_milter.cli.common import USAGE, Failure, note
from gatepost_milter.replay.play import Outcome
from gatepost_policy.journal.record import Json
from gatepost_policy.text.escape import shown

# Up to this many files get a line each about what was assumed; for more, a summary is printed.
SAID_SINGLY = 20


def print_json(outcome: Outcome) -> None:
    """Print one outcome as a JSON object on one line, in ASCII."""
    sys.stdout.write(json.dumps(outcome.json) + "\n")


def print_plain(outcome: Outcome) -> None:
    """Print one outcome as a block of lines. No line is cut, so that grep finds everything."""
    data = outcome.json
    lines = [shown(outcome.file)]
    if outcome.failed:
        lines.append(f"  error     {shown(data['error'])}")
    else:
        lines += _facts(outcome)
        lines += [f"  dkim      {_signature(s)}" for s in data["signatures"]]
        if not data["signatures"]:
            lines.append("  dkim      none")
        if data["arc"]:
            lines.append(f"  arc       {' '.join(filter(None, data['arc'].values()))}")
        lines += [f"  spf       {line}" for line in _spf(data["spf"])]
        if data["dmarc"]:
            lines.append(f"  dmarc     {_dmarc(data['dmarc'])}")
        lines += [f"  edit      {_edit(e)}" for e in data["edits"]]
        decision = data["decision"]
        words = (decision["action"], decision["reason"], decision["reply"])
        lines.append("  decision  " + shown(" ".join(w for w in words if w)))
    sys.stdout.write("\n".join(lines) + "\n")


def _facts(outcome: Outcome) -> list[str]:
    data, lines = outcome.json, list[str]()
    first = f"  facts     {data['direction']} {data['family']}"
    # A submission's client is private; it is not shown on the screen either.
    if outcome.request is not None and data["direction"] == "inbound":
        envelope = outcome.request.envelope
        name = f" {envelope.client_name}" if envelope.client_name else ""
        first += f" client {envelope.client}{name} helo {envelope.helo!s}"
    lines.append(shown(first))
    if outcome.request is not None:
        envelope = outcome.request.envelope
        recipients = " ".join(f"<{r}>" for r in envelope.recipients)
        lines.append(shown(f"  envelope  <{envelope.sender}> -> {recipients}"))
    return lines


def _signature(signature: Json) -> str:
    words = [signature["result"]]
    if signature["reason"]:
        words.append(f"({signature['reason']})")
    words += [f"d={signature['domain']}", f"s={signature['selector']}"]
    words += [str(signature[k]) for k in ("algorithm", "canonicalization") if signature[k]]
    if signature["key_bits"]:
        words.append(f"{signature['key_bits']} bits")
    if signature["body_limit"] is not None:
        words.append(f"l={signature['body_limit']}")
    return shown(" ".join(words))


def _spf(spf: Json | None) -> list[str]:
    """A line for each SPF identity; one line where both have the same result (a bounce)."""
    if spf is None:
        return []
    found = {name: check for name, check in spf.items() if name == "helo" or check != spf["helo"]}
    return [
        f"{_result(check)} {name.replace('_', '')}={check['domain']}"
        + (f" by {shown(check['mechanism'])}" if check["mechanism"] else "")
        for name, check in found.items()
    ]


def _dmarc(dmarc: Json) -> str:
    words = [_result(dmarc), f"from={dmarc['domain']}", f"organisation={dmarc['organisation']}"]
    if dmarc["policy"]:
        words.append(f"policy={dmarc['policy']}")
    if dmarc["aligned"]:
        words.append(f"aligned={','.join(dmarc['aligned'])}")
    return shown(" ".join(words))


def _result(found: Json) -> str:
    return f"{found['result']} ({found['reason']})" if found["reason"] else str(found["result"])


def _edit(edit: Json) -> str:
    value = "" if edit["value"] is None else f":{edit['value']}"
    return shown(f"{edit['op']} {edit['index']} {edit['name']}{value}")


@dataclass
class Assumptions:
    """What was assumed about the messages, printed on stderr: file by file, or summed up."""

    lines: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    files: int = 0

    def add(self, outcome: Outcome) -> None:
        """Note what was assumed for this file."""
        assumed = outcome.request.assumed if outcome.request else ()
        if not assumed:
            return
        self.files += 1
        words = [f"{what} {value or '<>'}" for what, value in assumed]
        for what, value in assumed:
            named = "as in From" if what == "sender" and value else value or "<>"
            self.counts[f"{what} {named}"] += 1
        if len(self.lines) < SAID_SINGLY:
            self.lines.append(f"{shown(outcome.file)}: assumed {', '.join(words)}")

    def tell(self) -> None:
        """Print it on stderr."""
        if self.files <= SAID_SINGLY:
            for line in self.lines:
                note(line)
        else:
            parts = ", ".join(f"{words} ({n})" for words, n in self.counts.most_common())
            note(f"assumed in {self.files} messages: {parts}")


Decided = tuple[str | None, str | None]


@dataclass
class Differences:
    """What is decided differently from an earlier run, by file. `old`: (action, reason) by file."""

    old: dict[str, Decided]
    changed: list[dict[str, Any]] = field(default_factory=list)
    missing: int = 0  # files that the earlier run had not seen
    same: int = 0

    @classmethod
    def read(cls, file: Path) -> "Differences":
        """Read an earlier output of `replay --format json`. Raises Failure."""
        old: dict[str, Decided] = {}
        number = 0
        try:
            with file.open("rb") as lines:
                for line in lines:
                    number += 1
                    if not line.strip():
                        continue
                    data = json.loads(line)
                    old[data["file"]] = _decided(data)
        except OSError as error:
            raise Failure(f"--diff {file}: {error.strerror or error}", USAGE) from None
        except (ValueError, KeyError, TypeError):
            raise Failure(
                f"--diff {file}: line {number}: want the output of replay --format json", USAGE
            ) from None
        return cls(old)

    def add(self, data: Json) -> None:
        """Compare one new outcome."""
        before, after = self.old.get(data["file"]), _decided(data)
        if before is None:
            self.missing += 1
        elif before == after:
            self.same += 1
        else:
            self.changed.append(
                {
                    "file": data["file"],
                    "old": {"action": before[0], "reason": before[1]},
                    "new": {"action": after[0], "reason": after[1]},
                }
            )

    @property
    def found(self) -> bool:
        """True where anything is decided differently."""
        return bool(self.changed)

    def print(self, form: str) -> None:
        """Print the changed files, then how often each change happens."""
        if form == "json":
            for change in self.changed:
                sys.stdout.write(json.dumps(change) + "\n")
            return
        kinds: Counter[str] = Counter()
        for change in self.changed:
            words = " -> ".join(_words(change[side]) for side in ("old", "new"))
            kinds[words] += 1
            sys.stdout.write(f"{shown(change['file'])}: {words}\n")
        for words, count in kinds.most_common():
            sys.stdout.write(f"{count:6} {words}\n")
        unseen = f", {self.missing} not in the earlier run" if self.missing else ""
        sys.stdout.write(f"{len(self.changed)} changed, {self.same} as before{unseen}\n")


def _decided(data: Json) -> Decided:
    decision = data["decision"]
    if decision is None:
        return "error", None
    return decision["action"], decision["reason"]


def _words(side: dict[str, str | None]) -> str:
    return shown(" ".join(w for w in (side["action"], side["reason"]) if w))
