"""One message: gather facts, apply the rules, scrub the header, record it. No libmilter here."""
