"""The terminal: a console that shows values from outside and never obeys them."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any, cast

from rich import console

from pipeline.visible import Styled, visible

if TYPE_CHECKING:
    from rich.text import Text


# What stands for the characters that rich's markup is made of, where a value has them: rich has no
# escape that brings every text back. `visible` lets no such character in from outside.
_AWAY = str.maketrans("[\\", "\U000f005b\U000f005c")
_BACK = {new: old for old, new in _AWAY.items()}
_KEPT = "\n" + "".join(map(chr, _BACK))


class Console(console.Console):
    """Prints markup in which control characters are escaped, wherever they come from.

    Args:
        stderr: print to standard error.
        quiet: print nothing.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        file = cast("IO[str]", Styled(sys.stderr if stderr else sys.stdout))
        # A name may hold what rich takes for an emoji: `:bomb:`.
        super().__init__(file=file, stderr=stderr, quiet=quiet, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn markup into text. Every string that is printed passes here, before its layout."""
        made = super().render_str(visible(text, keep=_KEPT), **options)
        made.plain = made.plain.translate(_BACK)  # as long as before: styles stay where they are
        return made


def escape(text: str) -> str:
    """Return a value from outside, to be put into the markup that a `Console` prints.

    Nothing in it is markup, or obeyed by a terminal. Line ends are escaped too, so a value never
    makes a line of its own.
    """
    return visible(text).translate(_AWAY)
