"""How the service is doing: the mail log, counters, the metrics endpoint."""
