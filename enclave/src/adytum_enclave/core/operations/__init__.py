"""Steps 4 and 5 for each operation: what happens once a request is allowed. One file a family, one generator each."""

from __future__ import annotations

from adytum_enclave.core.operations import export, files, make, reseal, rotation, seeds, sessions, states, use
from adytum_enclave.core.operations.context import Context, Effected, KmsSteps
from adytum_wire.requests import (
    CancelDeletion,
    DeleteKey,
    DeriveKey,
    DisableKey,
    EnableKey,
    Export,
    GenerateKey,
    GenerateSeed,
    ImportFile,
    ImportKey,
    OpenSession,
    Reseal,
    RotationStatement,
    ScheduleDeletion,
    Seal,
    SealAnchor,
    Sign,
    Unseal,
)

__all__ = ["Context", "Effected", "KmsSteps", "carry_out"]


def carry_out(context: Context) -> KmsSteps:
    """Errors: those of the steps. No secret outlives the call, except a warm key; nothing else has changed, also after
    success: `Effected.keep` does that."""
    match context.who.body:
        case Sign() as body:
            return use.sign_content(context, body)
        case GenerateKey() as body:
            return make.generate(context, body)
        case GenerateSeed() as body:
            return seeds.generate(context, body)
        case ImportKey() as body:
            return make.import_key(context, body)
        case ImportFile() as body:
            return files.import_file(context, body)
        case DeriveKey() as body:
            return seeds.derive(context, body)
        case Seal() as body:
            return make.seal_secret(context, body)
        case SealAnchor() as body:
            return make.seal_anchor(context, body)
        case Unseal() as body:
            return use.unseal(context, body)
        case Reseal() as body:
            return reseal.reseal(context, body)
        case Export() as body:
            return export.export(context, body)
        case EnableKey() | DisableKey() | ScheduleDeletion() | CancelDeletion() as body:
            return states.change(context, body)
        case DeleteKey() as body:
            return states.delete(context, body)
        case RotationStatement() as body:
            return rotation.state(context, body)
        case OpenSession() as body:
            return sessions.open_session(context, body)
