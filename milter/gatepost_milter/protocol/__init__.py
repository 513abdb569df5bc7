"""The milter protocol as values: numbers, negotiation, text for a packet. No sockets."""
