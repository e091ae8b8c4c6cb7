"""Python runs this when a child process of a test starts: what a deployment in it does is watched as well.

Without the variable, as in the enclave stand-in (whose memory is searched), it does nothing.
"""

import os
import sys

if os.environ.get("ADYTUM_TEST_SPOOL"):
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from leaks import hooks

    sys.path.pop()
    hooks.watch_child(os.environ["ADYTUM_TEST_SPOOL"])
