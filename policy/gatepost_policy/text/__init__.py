"""How things are written for people: escaped, counted, dated, laid out on a terminal."""
