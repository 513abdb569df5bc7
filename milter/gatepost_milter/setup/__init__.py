"""Set gatepost up in a mail server: what must change, merged with the configuration it has."""
