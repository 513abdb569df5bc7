"""docs/spf-dmarc.md names every reason of SPF and DMARC."""

from pathlib import Path

from gatepost_policy import dmarc, dns, spf
from gatepost_policy.dns.task import BROKEN

PAGE = (Path(__file__).parents[2] / "docs" / "spf-dmarc.md").read_text()


def test_every_reason_is_explained() -> None:
    answers = (dns.Why.NO_NAME, dns.Why.NO_RECORD)  # no failures: nobody is told them
    words = {*spf.Why, *dmarc.Why, BROKEN} | {why for why in dns.Why if why not in answers}
    assert {str(word) for word in words if f"`{word}`" not in PAGE} == set()
