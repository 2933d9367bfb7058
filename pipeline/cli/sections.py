"""Sections: the commands of a help page, under headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Sections(TyperGroup):
    """Lists commands under headings. Typer itself does so with rich only, which takes a while."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # as it is called
        """Write each command with the first paragraph of its help."""
        width = max(map(len, self.commands), default=0)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                heading = getattr(command, "rich_help_panel", None) or "Commands"
                said = " ".join((command.help or "").partition("\n\n")[0].split())
                sections.setdefault(heading, []).append((name.ljust(width), said))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)
