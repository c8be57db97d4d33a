"""The token that a page asks for on a machine that several people use, and the cookie that remembers it."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from specs import RunError

VARIABLE = "LORAFIT_TOKEN"
"""``off`` for no token, or a token of your own that outlives a restart."""

SHORTEST = 16
"""Characters of the shortest token that is accepted as your own: 64 bits even as hexadecimal digits."""


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A token that never shows its text by accident: only ``text`` does."""

    text: str

    @property
    def cookie_name(self) -> str:
        """The name of its cookie; a browser sends cookies to every port of a host, so each server needs its own."""
        return f"lorafit-{self._derived('name')[:8]}"

    @property
    def cookie_value(self) -> str:
        """The value of its cookie, from which nobody learns the token."""
        return self._derived("cookie")

    def is_given_by(self, text: str) -> bool:
        """Return whether a text is the token; takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(text.encode(), self.text.encode())

    def is_kept_in(self, cookie: str) -> bool:
        """Return whether a cookie's value is the token's, in constant time too."""
        return hmac.compare_digest(cookie.encode(), self.cookie_value.encode())

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.text.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def wanted(*, is_reachable: bool, others: Callable[[], set[str]]) -> Token | None:
    """Return the token that the server asks for, or None if it asks for none.

    Args:
        is_reachable: Whether other machines reach the server.
        others: Returns who else can log in to this machine.

    Raises:
        RunError: If the token of the environment is too short.
    """
    # Taken out, so that no process that the server starts inherits it.
    own = os.environ.pop(VARIABLE, "").strip()
    if own.lower() == "off":
        return None
    if own and len(own) < SHORTEST:
        raise RunError(VARIABLE, f"must be off, or have at least {SHORTEST} characters", None, "Lengthen or unset it")
    if own:
        return Token(own)
    return Token(secrets.token_hex(24)) if is_reachable or others() else None
