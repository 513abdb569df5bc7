"""Read history from the logs of mail servers.

Each MTA has a module with an importer: lines in, `record.Seen` values out, one for each message
or refused recipient. An importer never raises because of a line; lines that it cannot read are
counted. Authenticated and local mail is given without client, sender and recipients, because it is
only counted.
"""
