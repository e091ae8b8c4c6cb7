"""`adytum policy`: from a first document to one in force.

drafts    init, validate, diff
rehearse  simulate, preview
force     sign, push, show
"""

from __future__ import annotations

import click

from adytum.cli.groups import Group
from adytum.cli.policy import drafts, force, rehearse


@click.group(cls=Group)
def policy() -> None:
    """A tenant's policy: who may use which keys for what. It holds once the quorum of the manifest has signed it."""


for _command in (
    drafts.init,
    drafts.validate,
    drafts.diff,
    rehearse.simulate,
    rehearse.preview,
    force.sign,
    force.push,
    force.show,
):
    policy.add_command(_command)
