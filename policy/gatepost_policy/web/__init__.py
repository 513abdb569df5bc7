"""The live page: the report in a browser, on loopback, read-only unless asked otherwise."""
