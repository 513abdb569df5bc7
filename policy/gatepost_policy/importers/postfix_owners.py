"""Whose mail a client of Postfix's log brings, kept because most clients come again."""

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers.postfix_line import read_client
from gatepost_policy.rules.whose_mail import LOCAL, LOOPBACK, SUBMITTED, Ownership, whose_mail

MAX_OWNERS = 16_384


class Owners:
    """The owners of one importer's clients."""

    def __init__(self, ours: Submission) -> None:
        self._ours = ours
        self._known: dict[str, Ownership] = {}

    def of(self, peer: str, submitted: bool) -> Ownership:
        """Whose mail it is. `peer`: the client as the log has it, `name[address]`; `submitted`: it
        logged in, or came to a submission service."""
        if submitted:
            return SUBMITTED
        found = self._known.get(peer)
        if found is None:
            found = whose_mail(self._ours, address=read_client(peer).address)
            # Mail of a program on this host is only counted: a log does not show whose it was.
            found = LOCAL if found is LOOPBACK else found
            if len(self._known) >= MAX_OWNERS:
                self._known.clear()
            self._known[peer] = found
        return found
