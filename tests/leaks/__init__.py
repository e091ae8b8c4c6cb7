"""Every deployment that any test starts is searched for every secret that was used.

`hooks` watches, in the test's process and in its children, what makes, opens or holds a secret and what writes a
database or a log; both go to a `spool`. At the end of the run `judge` opens every record, and searches every dump, log
and printed line. `plugin` is how pytest runs it: no test asks for it, and none can leave it out.
"""
