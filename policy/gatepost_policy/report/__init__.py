"""Reports on a sender, host or trap: select messages, count them, judge, as values."""
