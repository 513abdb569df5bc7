"""Hide host names that only exist at somebody's home from message ids. Pure.

The same id always gets the same mask, so that a thread stays a thread.
"""

import re
from ipaddress import ip_address

_ID_HOST = re.compile(rb"@([^<>@\s]{1,512})>")
# RFC 6762 (local), RFC 8375 (home.arpa), RFC 6761 (localhost), and what home routers hand out.
_PRIVATE = (
    b".local", b".lan", b".localdomain", b".localhost", b".internal", b".intranet", b".home",
    b".home.arpa", b".corp", b".private", b".fritz.box",
)  # fmt: skip


def is_private(host: bytes) -> bool:
    """True for an IP literal, a name without a dot, and a name that no public DNS knows."""
    host = host.lower().rstrip(b".")
    if host.startswith(b"[") or b"." not in host or host.endswith(_PRIVATE):
        return True
    try:
        ip_address(host.decode("ascii"))
    except ValueError:
        return False
    return True


def mask_hosts(value: bytes, mask: bytes) -> bytes:
    """`value` (of Message-ID, In-Reply-To or References) with private hosts replaced by `mask`."""
    return _ID_HOST.sub(
        lambda m: b"@" + mask + b">" if is_private(m.group(1)) else m.group(), value
    )
