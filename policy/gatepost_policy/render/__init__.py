"""Render reports: as tables for a terminal, as CSV, as HTML."""
