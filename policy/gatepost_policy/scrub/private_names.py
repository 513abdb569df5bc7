"""The ends of host names that exist only in a private network."""

# RFC 6762 (local), RFC 8375 (home.arpa), RFC 6761 (localhost), and what home routers hand out.
PRIVATE = (
    b".local", b".lan", b".localdomain", b".localhost", b".internal", b".intranet", b".home",
    b".home.arpa", b".corp", b".private", b".fritz.box", b".box", b".arpa",
)  # fmt: skip
