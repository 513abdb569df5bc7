"""The words of RFC 8601 for what DKIM, SPF and DMARC said, in the order in which they are told.

Pure. They name columns of the store as well: a word is never changed.
"""

RESULTS = ("pass", "fail", "policy", "neutral", "temperror", "permerror", "none")
SPF_RESULTS = ("pass", "fail", "softfail", "neutral", "temperror", "permerror", "none")
DMARC_RESULTS = ("pass", "fail", "temperror", "permerror", "none")
