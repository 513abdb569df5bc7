"""Edits for the probe milter, and the header fields that Postfix made of them when measured."""

from typing import Any

TWO = b"Received: from one\nReceived: from two\nSubject:  x\n"


OWN, ONE, TWO_, SUBJECT = "Received:own", "Received:one", "Received:two", "Subject"


TABLE: list[tuple[str, list[list[Any]], list[str]]] = [
    ("delete number 1 hits the client's", [["chg", "Received", 1, ""]], [OWN, TWO_, SUBJECT]),
    ("index 0 is silently 1", [["chg", "Received", 0, ""]], [OWN, TWO_, SUBJECT]),
    (
        "deleting number 1 twice deletes both",
        [["chg", "Received", 1, ""], ["chg", "Received", 1, ""]],
        [OWN, SUBJECT],
    ),
    ("change number 2", [["chg", "Received", 2, " from new"]], [OWN, ONE, "Received:new", SUBJECT]),
    ("a number that is not there is appended", [["chg", "Received", 3, " from new"]],
     [OWN, ONE, TWO_, SUBJECT, "Received:new"]),
    ("deleting what is not there does nothing", [["chg", "Received", 3, ""]],
     [OWN, ONE, TWO_, SUBJECT]),
    ("insert at 0 goes above our own", [["ins", "X-A", 0, " a"]],
     ["X-A: a", OWN, ONE, TWO_, SUBJECT]),
    ("insert at 1 goes below our own", [["ins", "X-A", 1, " a"]],
     [OWN, "X-A: a", ONE, TWO_, SUBJECT]),
    ("insert beyond the end is appended", [["ins", "X-A", 99, " a"]],
     [OWN, ONE, TWO_, SUBJECT, "X-A: a"]),
    ("add goes to the end", [["add", "X-A", " a"]], [OWN, ONE, TWO_, SUBJECT, "X-A: a"]),
    ("without a leading space none is there", [["add", "X-A", "a"]],
     [OWN, ONE, TWO_, SUBJECT, "X-A:a"]),
    ("a changed field takes the name as given", [["chg", "RECEIVED", 1, " from new"]],
     [OWN, "RECEIVED: from new", TWO_, SUBJECT]),
    ("the sweep removes our own and the client's",
     [["ins", "Received", 0, "\n\tby gate"], ["chg", "Received", 3, ""],
      ["chg", "Received", 2, ""], ["chg", "Received", 1, ""]],
     ["Received:gate", SUBJECT]),
    ("after the sweep the client's are put back below",
     [["ins", "Received", 0, "\n\tby gate"], ["chg", "Received", 3, ""],
      ["chg", "Received", 2, ""], ["chg", "Received", 1, ""], ["ins", "Received", 1, " from one"]],
     ["Received:gate", ONE, SUBJECT]),
]  # fmt: skip
