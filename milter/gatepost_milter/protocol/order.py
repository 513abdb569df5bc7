"""Which command may follow which, as libmilter sees it (its engine.c, `next_states`).

How it works: a command leads to a state. Where the present state does not allow that one, the
transaction is over and the command is tried again from HELO; where that does not allow it either,
the command is ignored, without an answer. A state that the MTA was told to leave out is skipped.
"""

from functools import lru_cache

from gatepost_milter.protocol import constants as c

INIT, OPTS, CONN, HELO, MAIL, RCPT, DATA, HDRS, EOHS, BODY, ENDM, QUIT, ABRT, UNKN, Q_NC = range(15)

# Where a command leads; macros change nothing.
LEADS_TO = {
    c.SMFIC_OPTNEG: OPTS,
    c.SMFIC_CONNECT: CONN,
    c.SMFIC_HELO: HELO,
    c.SMFIC_MAIL: MAIL,
    c.SMFIC_RCPT: RCPT,
    c.SMFIC_DATA: DATA,
    c.SMFIC_HEADER: HDRS,
    c.SMFIC_EOH: EOHS,
    c.SMFIC_BODY: BODY,
    c.SMFIC_BODYEOB: ENDM,
    c.SMFIC_QUIT: QUIT,
    c.SMFIC_ABORT: ABRT,
    c.SMFIC_UNKNOWN: UNKN,
    c.SMFIC_QUIT_NC: Q_NC,
}
_NEXT: dict[int, tuple[int, ...]] = {
    INIT: (OPTS,),
    OPTS: (CONN, UNKN),
    CONN: (HELO, MAIL, UNKN),
    HELO: (HELO, MAIL, UNKN),
    MAIL: (RCPT, ABRT, UNKN),
    RCPT: (HDRS, EOHS, DATA, BODY, ENDM, RCPT, ABRT, UNKN),
    DATA: (EOHS, HDRS, ABRT),
    HDRS: (EOHS, HDRS, ABRT),
    EOHS: (BODY, ENDM, ABRT),
    BODY: (ENDM, BODY, ABRT),
    ENDM: (QUIT, MAIL, UNKN, Q_NC),
    QUIT: (),
    ABRT: (),
    UNKN: (HELO, MAIL, RCPT, ABRT, DATA, BODY, UNKN, QUIT, Q_NC),
    Q_NC: (CONN, UNKN),
}
_LEFT_OUT = {
    CONN: c.SMFIP_NOCONNECT,
    HELO: c.SMFIP_NOHELO,
    MAIL: c.SMFIP_NOMAIL,
    RCPT: c.SMFIP_NORCPT,
    HDRS: c.SMFIP_NOHDRS,
    EOHS: c.SMFIP_NOEOH,
    BODY: c.SMFIP_NOBODY,
    DATA: c.SMFIP_NODATA,
    UNKN: c.SMFIP_NOUNKNOWN,
}


def in_message(state: int) -> bool:
    """True between MAIL and the end of the message."""
    return MAIL <= state < ENDM


@lru_cache(maxsize=64)
def allowed(steps: int) -> tuple[frozenset[int], ...]:
    """For each state, the states it leads to, where `steps` (SMFIP_*) were agreed on."""
    out = []
    for state in range(15):
        found = set(_NEXT[state])
        following = state + 1
        # The states are in the order of a message: one that is left out is stepped over.
        while following < 15 and steps & _LEFT_OUT.get(following, 0):
            found |= set(_NEXT[following])
            following += 1
        out.append(frozenset(found))
    return tuple(out)
