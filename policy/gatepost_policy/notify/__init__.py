"""Tell people about events by a command, a webhook, mail or an Atom feed, in a separate process."""

from gatepost_policy.notify.rounds import Round, configured, test

__all__ = ["Round", "configured", "test"]
