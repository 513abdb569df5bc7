"""One message as one line, for a terminal that scrolls and for grep."""

from gatepost_policy.report.report import Line
from gatepost_policy.report.standing import NAMES
from gatepost_policy.text.decided import decided
from gatepost_policy.text.escape import shown
from gatepost_policy.text.terminal import UNSIGNED, client
from gatepost_policy.text.times import timestamp


def text(line: Line) -> str:
    """Time (UTC), decision, family, client, sender, recipients, the results of DKIM, SPF and
    DMARC, and the queue id; without a line end."""
    recipients = ", ".join(
        f"{shown(address)} (trap)" if trap else shown(address) for address, trap in line.recipients
    )
    dkim = UNSIGNED.get(line.dkim, line.dkim)
    if not line.signatures and line.size is None:
        dkim = "-"  # only a RCPT TO was seen: the message may have been signed
    checks = [f"dkim={dkim}"]
    if line.spf is not None:
        checks.append(f"spf={line.spf.mail_from.result}")
    if line.dmarc is not None:
        checks.append(f"dmarc={line.dmarc.result}")
    sender = "<>" if not line.sender else shown(line.sender)
    return " ".join(
        (
            timestamp(line.at),
            shown(decided(line.action, line.reason, line.source, brackets=False)),
            NAMES.get(line.family, shown(line.family)),
            client(line.address, line.client_name),
            f"{sender} to {recipients or '-'}",
            *checks,
            shown(line.queue_id or "-"),
        )
    )
