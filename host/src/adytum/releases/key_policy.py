"""The KMS key policy that lets some releases use the key, and how it differs from the one in force.

The deployment file (`adytum kms-policy`) says whose key it is; which images may use it comes from the releases here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, Final

from adytum.kms_policy.deployment import Deployment, Image, parent_role_pcr
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.render import key_policy, to_json
from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.release import Release
from adytum_verify import PcrPolicy

Json = dict[str, Any]
_PARENT_ROLE: Final = 3
_MANIFEST: Final = 16


def policy_for(deployment: Deployment, releases: Iterable[Release]) -> Json:
    """The key policy for exactly these releases. Which PCRs it pins is as in the deployment file; a release that does
    not fix its manifest (PCR16) or its parent role (PCR3) gets those of the deployment.

    Errors: KEY_POLICY, naming the release.
    """
    pattern = deployment.images[0].pcrs
    images = []
    for release in releases:
        pcrs = {index: release.pcrs.get(index) for index in pattern}
        if pcrs.get(_MANIFEST) is None and len({image.pcrs[_MANIFEST] for image in deployment.images}) == 1:
            pcrs[_MANIFEST] = pattern[_MANIFEST]
        if _PARENT_ROLE in pcrs and pcrs[_PARENT_ROLE] is None:
            pcrs[_PARENT_ROLE] = parent_role_pcr(deployment.roles.parent)
        known = {index: value for index, value in pcrs.items() if value is not None}
        if missing := set(pcrs) - set(known):
            raise ReleaseError(ReleaseCode.KEY_POLICY, f"{release.name}: PCR{min(missing)} is not known")
        try:
            images.append(Image(release.name, known))
        except KmsPolicyError as error:
            raise ReleaseError(ReleaseCode.KEY_POLICY, error.sentence) from None
    try:
        return key_policy(deployment.roles, images, deployment.tenants)
    except KmsPolicyError as error:
        raise ReleaseError(ReleaseCode.KEY_POLICY, error.sentence) from None


def require_known(configured: Iterable[PcrPolicy], releases: Iterable[Release]) -> None:
    """Every image that the settings allow must be one of `releases`: the key policy would shut it out otherwise, while
    it serves. Errors: KEY_POLICY."""
    known = list(releases)
    for image in configured:
        if not any(all(image.pcrs.get(i, value) == value for i, value in r.pcrs.items()) for r in known):
            raise ReleaseError(ReleaseCode.KEY_POLICY, "tee.allowedPCRs has an image that is no release: add it first")


def difference(current: str, wanted: Json) -> str:
    """A unified diff from `current` (JSON, as GetKeyPolicy gives it) to `wanted`; "" when they say the same.

    Errors: KEY_POLICY when `current` is not a JSON object.
    """
    try:
        found = json.loads(current)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ReleaseError(ReleaseCode.KEY_POLICY, "the current policy is not JSON")
    if isinstance(found.get("Policy"), str):  # what the aws command prints around it
        return difference(found["Policy"], wanted)
    before, after = (to_json(policy).splitlines(keepends=True) for policy in (_sorted(found), _sorted(wanted)))
    return "".join(difflib.unified_diff(before, after, "in force", "wanted"))


def _sorted(policy: Json) -> Json:
    """Members in one order, so that only what is said differs."""
    ordered: Json = json.loads(json.dumps(policy, sort_keys=True))
    return ordered
