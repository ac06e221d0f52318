"""From a JSON Web Token (RFC 7519) to the grant that it stands for."""

from typing import Annotated, Any, Final

import jwt
import msgspec

from cluster.gateway.auth.grant import Grant, Verb
from cluster.gateway.auth.jwks import Jwks, KeysUnavailable
from cluster.gateway.auth.keys import ALGORITHMS
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem

_LONGEST: Final = 8 * 2**10
_SYMMETRIC: Final = "HS256"

_Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class _Claims(msgspec.Struct):
    """What this gateway reads of a token, beside what PyJWT checks."""

    act: _Pattern | Annotated[list[_Pattern], msgspec.Meta(max_length=64)]
    verbs: Annotated[list[Verb], msgspec.Meta(max_length=16)]
    sub: str = ""
    exp: float | None = None
    iat: float | None = None


class Tokens:
    """Checks tokens. The algorithm is that of the key, whatever the token says: nothing else gets to that key."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._secret = options.auth_secret
        self._jwks: Jwks | None = None
        if options.auth_jwks is not None:
            self._jwks = Jwks(options.auth_jwks, refresh=options.auth_jwks_refresh, cooldown=options.auth_jwks_cooldown)

    async def start(self) -> None:
        """Read the keys. Raises ``ValueError`` for a file that has none."""
        if self._jwks is not None:
            await self._jwks.start()

    async def stop(self) -> None:
        """End what ``start`` began."""
        if self._jwks is not None:
            await self._jwks.stop()

    async def grant(self, token: str, *, from_url: bool) -> Grant:
        """What the token allows. ``from_url``: it was seen by whoever logs URLs, so it must be short-lived.

        Raises ``Problem`` 401 for a token that is not accepted, 503 while there are no keys to check it with.
        """
        try:
            claims = msgspec.convert(await self._verified(token), type=_Claims)
        except KeysUnavailable as error:
            detail = f"no token can be checked now, because the keys could not be read: {error}"
            raise Problem(503, "ClusterUnavailable", detail, headers={"Retry-After": "1"}) from None
        except Problem:
            raise
        except jwt.PyJWTError as error:
            raise refused(str(error)) from None
        except Exception as error:  # claims of other types than PyJWT reckons with
            raise refused(f"its claims are malformed: {error}") from None
        if from_url:
            self._check_short_lived(claims)
        return Grant(
            subject=claims.sub,
            patterns=(claims.act,) if isinstance(claims.act, str) else tuple(claims.act),
            verbs=frozenset(claims.verbs),
            expires=claims.exp,
        )

    async def _verified(self, token: str) -> dict[str, Any]:
        if len(token) > _LONGEST:
            raise refused(f"it has more than {_LONGEST} characters")
        header = jwt.get_unverified_header(token)
        algorithm, options = header.get("alg"), self._options
        key: str | jwt.PyJWK | None = None
        if algorithm == _SYMMETRIC:
            key = self._secret
        elif algorithm in ALGORITHMS and self._jwks is not None:
            key = await self._jwks.find(header.get("kid"), algorithm)
        if key is None:
            raise refused("it is signed with no key that is known here")
        return jwt.decode(
            token,
            key,
            algorithms=[str(algorithm)],
            audience=options.auth_audience,
            issuer=options.auth_issuer,
            leeway=options.auth_leeway,
            options={"require": ["exp"] if options.auth_require_expiry else []},
        )

    def _check_short_lived(self, claims: _Claims) -> None:
        most = self._options.auth_url_lifetime
        if claims.exp is None or claims.iat is None or claims.exp - claims.iat > most:
            raise refused(f"in a URL it must live for {most:g} seconds at most (exp and iat say so)")


def refused(why: str) -> Problem:
    """401 for a token."""
    challenge = 'Bearer realm="agentsilo", error="invalid_token"'
    return Problem(
        401, "NotAuthenticated", f"the token is not accepted: {why}", headers={"WWW-Authenticate": challenge}
    )
