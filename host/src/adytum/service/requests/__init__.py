"""Requests that wait for approvals: what the host does between "not yet" and the enclave's final word.

    shapes    the JSON of this part of the API
    policies  the policy in force, as far as the host knows it
    preview   what the enclave would say, by the same code; believed by nobody
    cases     one request with all that belongs to it, read together
    carrying  take a pending request to the enclave with the approvals that count
    desk      the ways in: look, approve, cancel, wait; and the chores
    routes    HTTP

Nothing here decides. A host that invents, drops or delays approvals can keep a request from being carried out, and can
do nothing else: the enclave verifies each approval again.
"""
