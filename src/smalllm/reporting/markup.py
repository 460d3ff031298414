"""Pieces of HTML that several parts of the page share. Whatever comes from a file goes through `escaped`."""

import html
from collections.abc import Iterable


def escaped(value: object) -> str:
    """Text that is safe inside an HTML element or a quoted attribute, whatever it was.

    Characters that HTML or UTF-8 cannot hold (control characters, half surrogates) become U+FFFD.
    """
    text = "".join(c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in str(value))
    return html.escape(text)


def grid(names: Iterable[str], body: str) -> str:
    """A table of `<td>` rows under column heads, which scrolls sideways where it is too wide."""
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    return f"<div class=scroll><table class=grid><thead><tr>{head}</tr></thead>{body}</table></div>"


def spread(n: int, n_chosen: int) -> set[int]:
    """At most `n_chosen` of the positions 0 to n-1, evenly spread, first and last among them."""
    return {round(i * (n - 1) / (n_chosen - 1)) for i in range(n_chosen)}
