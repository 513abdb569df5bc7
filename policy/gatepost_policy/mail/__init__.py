"""What a message is: addresses, facts, decisions, dates, Received fields. Pure values."""
