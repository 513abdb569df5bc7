"""One message through facts, knowledge, rules, scrub, record. No libmilter here."""
