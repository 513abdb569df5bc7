"""The events as an Atom feed (RFC 4287), with every element that it requires."""

import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gatepost_policy.notify import words
from gatepost_policy.notify.notices import Notice
from gatepost_policy.text.escape import shown
from gatepost_policy.text.times import timestamp

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Notify

ATOM = "http://www.w3.org/2005/Atom"
MOST = 100
TYPE = "application/atom+xml; charset=utf-8"


def document(settings: "Notify", found: Sequence[Notice], name: str, now: float) -> bytes:
    """The feed of `found`, newest first, as UTF-8 XML. `name` is part of all ids, so that feeds of
    different stores have different ids; `now`: Unix seconds."""
    ElementTree.register_namespace("", ATOM)
    feed = ElementTree.Element(f"{{{ATOM}}}feed")
    _put(feed, "id", _urn(name))
    _put(feed, "title", "gatepost")
    changed = max((notice.event.last for notice in found), default=now)
    _put(feed, "updated", timestamp(changed))
    _put(ElementTree.SubElement(feed, f"{{{ATOM}}}author"), "name", "gatepost")
    if settings.page:
        ElementTree.SubElement(feed, f"{{{ATOM}}}link", rel="alternate", href=f"{settings.page}/")
    for notice in found:
        event = notice.event
        entry = ElementTree.SubElement(feed, f"{{{ATOM}}}entry")
        _put(entry, "id", _urn(f"{name} {notice.id} {event.at!r}"))
        title = words.TITLES[event.kind]
        _put(entry, "title", f"{title}: {event.who}" if event.who else title)
        _put(entry, "published", timestamp(event.at))
        _put(entry, "updated", timestamp(event.last))
        where = words.link(event, settings.page)
        if where is not None:
            ElementTree.SubElement(entry, f"{{{ATOM}}}link", rel="alternate", href=where)
        lines = event.data.get("lines") or [words.line(event)]
        _put(entry, "content", *lines, type="text")
    text: bytes = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _put(parent: ElementTree.Element, name: str, *lines: str, **attributes: str) -> None:
    """Add an element with text. `shown` escapes all characters that XML 1.0 forbids."""
    element = ElementTree.SubElement(parent, f"{{{ATOM}}}{name}", attributes)
    element.text = "\n".join(map(shown, lines))


def _urn(text: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'gatepost {text}')}"
