"""The shipped list of mail services: whom it must hold, and that it can be extended."""

import re

import pytest

from from_table import from_table
from gatepost_policy.config.settings import Settings, packaged_never_list
from gatepost_policy.config.values import write_table

EUROPE = """gmx.net web.de t-online.de freenet.de orange.fr laposte.net free.fr sfr.fr libero.it
 virgilio.it mail.ru yandex.ru ukr.net seznam.cz wp.pl onet.pl interia.pl btinternet.com bluewin.ch
 proton.me""".split()
ASIA = """qq.com 163.com 126.com sina.com sohu.com foxmail.com yeah.net aliyun.com 139.com naver.com
 daum.net hanmail.net nate.com yahoo.co.jp docomo.ne.jp ezweb.ne.jp softbank.ne.jp rediffmail.com
 yahoo.co.in hinet.net""".split()
AMERICAS = """gmail.com outlook.com hotmail.com live.com msn.com yahoo.com aol.com icloud.com
 comcast.net verizon.net att.net sbcglobal.net cox.net charter.net bell.net rogers.com shaw.ca
 uol.com.br bol.com.br terra.com.br""".split()
SERVICES = ["sendgrid.net", "mailgun.org", "amazonses.com", "mcsv.net", "mailjet.com", "mtasv.net"]


@pytest.mark.parametrize("names", [EUROPE, ASIA, AMERICAS, SERVICES])
def test_the_biggest_are_on_it(names: list[str]) -> None:
    assert set(names) - set(Settings().sender.never_list) == set()
    assert len(names) in (20, 6)


def test_its_form() -> None:
    names = packaged_never_list()
    assert len(set(names)) == len(names) > 300
    assert all(re.fullmatch(r"(?:[a-z0-9-]+\.)+[a-z]{2,}", name) for name in names)


def test_it_can_be_extended_and_replaced() -> None:
    more = from_table(Settings, {"sender": {"never_list": ["@packaged", "mine.example"]}})
    assert more.sender.never_list == (*packaged_never_list(), "mine.example")
    other = from_table(Settings, {"sender": {"never_list": ["mine.example"]}})
    assert other.sender.never_list == ("mine.example",)
    assert from_table(Settings, write_table(more)).sender.never_list == more.sender.never_list
