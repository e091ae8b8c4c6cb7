"""What an author of policies needs before anybody signs: a first document, reasons, warnings, differences, rehearsals.

    start      a document to begin with
    reasons    why a draft is refused, in a sentence
    lint       what is valid and probably not meant
    diff       what a new document changes, and whether it may allow more
    simulate   what a draft would have answered to recorded requests

Pure: documents and bytes in, data out. The decision is `adytum_policy.decide`, the enclave's own.
"""
