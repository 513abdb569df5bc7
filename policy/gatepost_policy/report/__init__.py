"""Answer "who is this sender?": select, count, judge, as values."""
