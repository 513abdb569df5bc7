"""The words of RFC 8601 for the results of DKIM, SPF and DMARC, in the order of the reports.

Pure. They name columns of the store as well: a word is never changed.
"""

RESULTS = ("pass", "fail", "policy", "neutral", "temperror", "permerror", "none")
SPF_RESULTS = ("pass", "fail", "softfail", "neutral", "temperror", "permerror", "none")
DMARC_RESULTS = ("pass", "fail", "temperror", "permerror", "none")
