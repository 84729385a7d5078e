"""What may be a credential, or another text that a provider is sent: one rule, whoever gives it."""

import re

MIN_SIGNING_SECRET = 16  # characters; who guesses it settles payments that nobody paid

PIN = re.compile(r"[0-9]{4,8}")  # int() and isdigit() take the digits of other scripts too

PEM = "-----BEGIN "  # such a key has several lines


def wrong_with(text: str) -> str | None:
    """What is wrong with a text, as the end of a sentence that names whose it is; None: nothing.

    A line feed behind a token is easily copied along and never seen. No header can hold it, so no request could leave.
    """
    lines = text.splitlines() if text.startswith(PEM) else [text]
    if not all(line.isprintable() for line in lines):
        return "holds a line break, or a character that cannot be printed"
    if len(lines) == 1 and text != text.strip():
        return "begins or ends with a space"
    return None


def wrong_with_signing_secret(text: str) -> str | None:
    """The same of a secret by which we believe what is signed."""
    short = f"must have at least {MIN_SIGNING_SECRET} characters; make one with: openssl rand -hex 32"
    return wrong_with(text) or (short if len(text) < MIN_SIGNING_SECRET else None)


def wrong_with_pin(text: str) -> str | None:
    """The same of a PIN. A few wrong ones may block a wallet."""
    return wrong_with(text) or (None if PIN.fullmatch(text) else "must be 4 to 8 digits, each of 0 to 9")
