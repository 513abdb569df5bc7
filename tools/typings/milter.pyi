"""pymilter's C module, as far as this project uses it: pymilter brings no types."""

from typing import Any

ACCEPT: int
CONTINUE: int
DISCARD: int
NOREPLY: int
REJECT: int
SKIP: int
TEMPFAIL: int
ADDHDRS: int
ADDRCPT: int
CHGHDRS: int
DELRCPT: int
P_HDR_LEADSPC: int
P_NODATA: int
P_NOUNKNOWN: int
P_NR_BODY: int
P_NR_CONN: int
P_NR_EOH: int
P_NR_HDR: int
P_NR_HELO: int
P_NR_MAIL: int
P_NR_RCPT: int
P_RCPT_REJ: int
P_SKIP: int

class error(Exception): ...

def __getattr__(name: str) -> Any: ...
