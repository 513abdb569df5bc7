"""Read history out of the logs of mail servers.

Each MTA has a module with an importer: lines in, `record.Seen` values out, one for each message
or refused recipient. An importer never raises for what a line holds; what it cannot read it
counts. Authenticated and local mail comes out without client, sender and recipients, to be
counted and nothing else.
"""
