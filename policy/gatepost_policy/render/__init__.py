"""Show a report: table, CSV, HTML."""
