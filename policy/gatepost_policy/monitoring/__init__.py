"""Watch the service: the mail log, counters, the metrics endpoint."""
