"""gatepost's doors: the milter that Postfix talks to, and `milterctl` for the people."""
