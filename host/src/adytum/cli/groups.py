"""Groups of commands whose help says each command's first sentence to its end; click cuts it off after a line."""

from __future__ import annotations

import click

_WHOLE = 1_000  # characters: no first sentence is longer


class Group(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(_WHOLE)) for name, one in found if one is not None and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
