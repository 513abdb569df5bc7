"""Decisions, history and reports. Nothing in this package needs the milter protocol."""
