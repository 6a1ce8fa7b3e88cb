"""Text that others wrote, made fit to be shown: one line, no control characters, no secrets. Pure."""

import re

HIDDEN = "(redacted)"
SHORTEST = 6  # characters: a shorter secret would be found in every sentence
# A private key, also one that was cut off, and a JSON web token. Compiled when something is to be hidden, not at start.
_SECRET = (
    r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"
)


def one_line(text: str) -> str:
    """Control characters escaped, and bytes that are no text replaced: a row is a row."""
    if text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode("utf-8", "replace").decode()


def scrub(text: str, *secrets: str) -> str:
    """`text` without these secrets, and without anything that looks like a private key or a token."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return re.sub(_SECRET, HIDDEN, text)
