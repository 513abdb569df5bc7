"""The MTA's side: play Postfix towards a milter, for replay and tests."""
