"""Which text can be shown to a person as it is: what is signed and what is seen must not differ.

Control characters, and the format characters that reverse or hide text, are not readable; nor are unassigned ones. Such
text is shown as the hex of its UTF-8.
"""

from __future__ import annotations


def is_readable(text: str) -> bool:
    """Whether every character prints, or is a line feed or a tab."""
    return text.isprintable() or all(char.isprintable() or char in "\n\t" for char in text)


def shown(text: str) -> str:
    """`text` when readable, else "hex:" and its UTF-8 in hex. So is text that begins so."""
    return text if is_readable(text) and not text.startswith("hex:") else "hex:" + text.encode().hex()
