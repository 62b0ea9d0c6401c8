"""Elements of HTML. Whatever is put into one is escaped, unless it is an element itself."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element. Attributes that are None or "" are left out; ``class_`` and ``aria_label`` become ``class`` and
    ``aria-label``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    return Html(f"<{name}{given}>{joined(inside)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Elements and text, one after the other."""
    return Html(between.join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def items(kind: str, inside: Iterable[object], **attributes: object) -> Html:
    """A list ("ul" or "ol") with an item for each of ``inside``."""
    return tag(kind, *(tag("li", one) for one in inside), **attributes)


def pairs(terms: Iterable[tuple[str, object]], kind: str) -> Html:
    """A list of terms with what is said of each; those of which nothing is said (None) are left out."""
    known = [tag("div", tag("dt", name), tag("dd", value)) for name, value in terms if value is not None]
    return tag("dl", *known, class_=kind) if known else Html("")


def name_tag(name: str) -> Html:
    """A name that does not change the direction of the text beside it."""
    return tag("bdi", name or "(no name)")
