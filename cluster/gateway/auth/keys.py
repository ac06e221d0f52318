"""Public keys that sign tokens: what a JWK Set (RFC 7517) has of them."""

from typing import Any, Final, Self

import jwt
import msgspec

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""What keys of a set sign with. Each kind of key has one; what the token says has to be it."""

_MOST_KEYS: Final = 100
_SHORTEST_RSA: Final = 2048


class KeySet:
    """The usable keys of a set."""

    def __init__(self, keys: list[jwt.PyJWK]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Those that sign tokens with one of ``ALGORITHMS``; what else is in the set is for others.

        Raises ``ValueError`` for what is no set, or has none.
        """
        try:
            found = msgspec.json.decode(data, type=dict[str, Any]).get("keys")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"this is no JWK Set: {error}") from None
        if not isinstance(found, list) or len(found) > _MOST_KEYS:
            raise ValueError(f'a JWK Set is an object with a list of up to {_MOST_KEYS} "keys"')
        keys = [key for key in map(_usable, found) if key is not None]
        if not keys:
            raise ValueError(
                f"the JWK Set has no public key for {', '.join(ALGORITHMS)} (RSA needs {_SHORTEST_RSA} bits or more)"
            )
        return cls(keys)

    def find(self, name: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of a name, if that is its algorithm; without a name the only key of the algorithm."""
        keys = [key for key in self._keys if key.algorithm_name == algorithm and name in (None, key.key_id)]
        return keys[0] if len(keys) == 1 else None


def _usable(found: object) -> jwt.PyJWK | None:
    if not isinstance(found, dict) or found.get("use", "sig") != "sig":
        return None
    if "verify" not in found.get("key_ops", ["verify"]):
        return None
    try:
        key = jwt.PyJWK(found)
    except Exception:  # there are many ways in which a key can be none
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    if key.algorithm_name == "RS256" and key.key.key_size < _SHORTEST_RSA:
        return None
    return key
