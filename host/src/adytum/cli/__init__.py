"""The command `adytum`. One file a command group; each is imported only when it is used.

Further commands come from the entry-point group "adytum.commands" (name -> click command), loaded when they are called
or listed; production need not have the distributions that bring them.

Exit status: 0 done, 1 refused or failed (a stable code and a sentence), 2 wrong usage. A user's mistake never shows a
stack trace. `--json` prints one JSON object.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

import click

from adytum.cli.output import report_failures

ENTRY_POINTS = "adytum.commands"

# Name -> (module, attribute, what `adytum --help` says).
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "approve": ("adytum.cli.approve", "approve", "Look into requests that wait, and approve or reject them."),
    "attest": ("adytum.cli.attest", "attest", "Verify the enclave that serves now, with a fresh challenge."),
    "audit": ("adytum.cli.audit", "audit", "List, export, verify and watch the chains of receipts."),
    "backup": ("adytum.cli.backup", "backup", "Write a backup of the database that a restore can be checked by."),
    "config": ("adytum.cli.config", "config", "Check and show the settings."),
    "keys": ("adytum.cli.keys", "keys", "Make, import, list, disable, export and delete keys and seeds."),
    "kms-policy": ("adytum.cli.kms_policy", "kms_policy", "Write, check and explain KMS key policies."),
    "migrate": ("adytum.cli.migrate", "migrate", "Move the database schema forward and back, and make its roles."),
    "pipe": ("adytum.cli.pipe", "pipe", "Carry bytes between the enclave and what its manifest names."),
    "policy": ("adytum.cli.policy", "policy", "Write, check, rehearse, sign, push and show policies."),
    "recover": ("adytum.cli.recover", "recover", "Open recovery envelopes offline, and drill that."),
    "release": ("adytum.cli.release", "release", "Let a new image take over, and prove the old one refused."),
    "restore": ("adytum.cli.restore", "restore", "Restore a backup, and check and drill what is restored."),
    "rotate": ("adytum.cli.rotate", "rotate", "Seal every record again, gradually, and let the old ones go."),
    "requests": ("adytum.cli.requests", "requests", "List and show requests, get a late answer, and take one back."),
    "serve": ("adytum.cli.serve", "serve", "Run the host service."),
    "sign": ("adytum.cli.sign", "sign", "Sign Ethereum and Bitcoin transactions in the enclave."),
    "usage": ("adytum.cli.usage", "usage", "Show and reset what is used of limits; set up their anchor."),
}


class _Commands(click.Group):
    """Finds commands by name, ours first: a plugin cannot replace one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS.keys() | {point.name for point in entry_points(group=ENTRY_POINTS)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module, attribute, _ = _COMMANDS[cmd_name]
            found: click.Command = getattr(importlib.import_module(module), attribute)
            return found
        for point in entry_points(group=ENTRY_POINTS, name=cmd_name):
            try:
                plugin = point.load()
            except ImportError as error:
                text = f"the command {cmd_name!r} is registered but cannot be loaded ({type(error).__name__})"
                raise click.ClickException(text) from None
            if isinstance(plugin, click.Command):
                return plugin
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without importing anything."""
        came = {point.name: point.dist.name if point.dist else "" for point in entry_points(group=ENTRY_POINTS)}
        rows = [
            (name, _COMMANDS[name][2] if name in _COMMANDS else f"(comes with {came[name]})")
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        with report_failures(ctx):
            return super().invoke(ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="adytum", prog_name="adytum")
def main() -> None:
    """Keep wallet keys inside AWS Nitro Enclaves.

    The host service (`adytum serve`) carries requests to the enclave and stores what comes back. The other commands are
    clients of it: they stamp requests with your key, and verify every answer before they show it.

    \b
    Start here:
      adytum config check -c adytum.yaml     is the configuration complete?
      adytum migrate up -c adytum.yaml       prepare the database
      adytum serve -c adytum.yaml            run the service
      adytum attest --url ... --pcr ...      is it the enclave that I expect?

    Exit status: 0 done, 1 refused or failed, 2 wrong usage.
    """
