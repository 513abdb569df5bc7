"""Tell people about events: a command, a webhook, mail, an Atom feed. Never in the way of mail."""

from gatepost_policy.notify.rounds import Round, configured, test

__all__ = ["Round", "configured", "test"]
