"""``/v1/stream/__ds/...``: subscriptions, and the public keys of webhooks (protocol, 6 and 7)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from actors import actor_ref
from actors.ports import Store
from cluster.gateway.auth import Grant, grant_of
from cluster.gateway.body import read_body
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem
from cluster.gateway.streams.free_standing import root_of
from cluster.gateway.streams.names import RESERVED, ROOT, SUBSCRIPTION, check_path, resources, stream_key
from cluster.gateway.streams.offsets import parse_offset
from cluster.gateway.streams.stream_writer import PATIENCE
from cluster.gateway.streams.subscription import Subscription
from cluster.gateway.streams.subscription_state import (
    Ack,
    Grasp,
    SubscriptionCode,
    SubscriptionConfig,
    SubscriptionInfo,
    SubscriptionOutcome,
)
from cluster.gateway.streams.webhook_keys import PublicKey, keys_address
from cluster.gateway.streams.webhook_url import UnsafeUrl, check_url

_MOST_BODY = 2**20
_LEASES = range(1_000, 600_001)
_DEFAULT_LEASE = 30_000

_PROBLEMS: Final[Mapping[SubscriptionCode, tuple[int, str, str]]] = {
    "missing": (404, "SUBSCRIPTION_NOT_FOUND", "there is no subscription of this name"),
    "conflict": (409, "SUBSCRIPTION_ALREADY_EXISTS", "there is a subscription of this name with another configuration"),
    "fenced": (409, "FENCED", "the wake has ended, or is another's"),
    "claimed": (409, "ALREADY_CLAIMED", "another worker holds the subscription"),
    "nothing": (409, "NO_PENDING_WORK", "there is nothing to process"),
    "wrong_type": (400, "INVALID_REQUEST", "only pull-wake subscriptions are claimed"),
    "invalid": (400, "INVALID_REQUEST", "the subscription has no such stream"),
}


class _Webhook(msgspec.Struct):
    url: str


class _Wanted(msgspec.Struct):
    type: str
    pattern: str | None = None
    streams: list[str] = []
    webhook: _Webhook | None = None
    wake_stream: str | None = None
    lease_ttl_ms: int = _DEFAULT_LEASE
    description: str | None = None


class _Streams(msgspec.Struct):
    streams: list[str]


class _Claim(msgspec.Struct):
    worker: str


class _Held(msgspec.Struct):
    wake_id: str
    generation: int
    acks: list[Ack] = []
    done: bool = False


class Subscriptions:
    """Answers everything under the reserved prefix."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options

    async def handle(self, request: Request, store: Store, path: str) -> Response:
        """Any request; ``path`` is what follows the prefix. Raises ``Problem`` or an ``ActorError``."""
        match request.method, path.split("/", 3):
            case "GET" | "HEAD", ["jwks.json"]:
                return await _jwks()
            case "POST", ["subscriptions", name, "callback" | "ack"]:
                return await self._acknowledge(request, store, name)
            case "POST", ["subscriptions", name, "release"]:
                held = await _body(request, _Held)
                grasp = _grasp(request, held)
                subscription = await self._held_subscription(store, name)
                self._checked_wake(await subscription.give_back(grasp))
                return Response(status_code=204)
        grant = grant_of(request)
        grant.check("admin", f"{RESERVED}/{path}")
        match request.method, path.split("/", 3):
            case "PUT", ["subscriptions", name] if name:
                return await self._configure(request, name)
            case "GET" | "HEAD", ["subscriptions", name] if name:
                return _told(_info(_checked(await _subscription(name).look()).info))
            case "DELETE", ["subscriptions", name] if name:
                await _subscription(name).remove()
                return Response(status_code=204)
            case "POST", ["subscriptions", name, "streams"]:
                streams = _paths((await _body(request, _Streams)).streams)
                for stream in streams:
                    grant.check("read", *resources(stream))
                _checked(await _subscription(name).add_streams(streams))
                return Response(status_code=204)
            case "DELETE", ["subscriptions", name, "streams", stream]:
                _checked(await _subscription(name).remove_stream(stream))
                return Response(status_code=204)
            case "POST", ["subscriptions", name, "claim"]:
                return await _claim(request, name)
        raise _problem(404, "NOT_FOUND", f"{ROOT}{RESERVED}/{path} is nothing that answers {request.method}")

    async def _configure(self, request: Request, name: str) -> Response:
        config = self._config(await _body(request, _Wanted))
        _check(grant_of(request), config)
        root = root_of(request)
        outcome = _checked(await _subscription(name).configure(name, config, root))
        info = _info(outcome.info)
        if config.type == "webhook":
            keys = await _public_keys()
            signing = {"alg": "ed25519", "kid": keys[0].kid, "jwks_url": f"{root}{RESERVED}/jwks.json"}
            info["webhook"] = {**info["webhook"], "signing": signing}
        return _told(info, status=201 if outcome.code == "created" else 200)

    async def _acknowledge(self, request: Request, store: Store, name: str) -> Response:
        held = await _body(request, _Held)
        for ack in held.acks:
            try:
                parse_offset(ack.offset)
            except ValueError as error:
                raise _invalid(str(error)) from None
        grasp = _grasp(request, held)
        subscription = await self._held_subscription(store, name)
        outcome = await subscription.acknowledge(grasp, held.acks, held.done)
        return _told({"ok": True, "next_wake": self._checked_wake(outcome).next_wake})

    async def _held_subscription(self, store: Store, name: str) -> Subscription:
        """The subscription, for who has no token but that of a wake.

        Where others need one, nobody without may wake actors that are not there: names without end would fill memory
        and store. Raises ``Problem`` then.
        """
        if self._options.has_auth and await store.state(f"{SUBSCRIPTION}-{stream_key(name)}") is None:
            _checked(SubscriptionOutcome("fenced"))
        return _subscription(name)

    def _checked_wake(self, outcome: SubscriptionOutcome) -> SubscriptionOutcome:
        """Of what the token of a wake is enough for: who has none is not told what there is."""
        if outcome.code == "missing" and self._options.has_auth:
            outcome = SubscriptionOutcome("fenced")
        return _checked(outcome)

    def _config(self, wanted: _Wanted) -> SubscriptionConfig:
        """The configuration in its normal form. Raises ``Problem``."""
        if wanted.pattern is None and not wanted.streams:
            raise _invalid("a subscription needs a pattern or streams")
        if wanted.lease_ttl_ms not in _LEASES:
            raise _invalid(f"lease_ttl_ms is {_LEASES.start} to {_LEASES.stop - 1}, not {wanted.lease_ttl_ms}")
        if wanted.pattern is not None:
            _path(wanted.pattern)
        streams = tuple(sorted(set(_paths(wanted.streams))))
        if wanted.type == "webhook" and wanted.webhook is not None:
            local = self._options.allows_local_webhooks
            try:
                check_url(wanted.webhook.url, local=local)
            except UnsafeUrl as error:
                raise _problem(400, "WEBHOOK_URL_REJECTED", str(error)) from None
            return SubscriptionConfig(
                "webhook", wanted.pattern, streams, webhook_url=wanted.webhook.url, webhook_local=local,
                lease_ttl_ms=wanted.lease_ttl_ms, description=wanted.description,
            )  # fmt: skip
        if wanted.type == "pull-wake" and wanted.wake_stream is not None:
            return SubscriptionConfig(
                "pull-wake", wanted.pattern, streams, wake_stream=_path(wanted.wake_stream),
                lease_ttl_ms=wanted.lease_ttl_ms, description=wanted.description,
            )  # fmt: skip
        raise _invalid('type is "webhook", with webhook.url, or "pull-wake", with wake_stream')


def _check(grant: Grant, config: SubscriptionConfig) -> None:
    """Who is told of appends may read, and whoever says where that is told may write there."""
    for stream in config.streams:
        grant.check("read", *resources(stream))
    if config.pattern is not None:
        grant.check_pattern("read", config.pattern)
    if config.wake_stream is not None:
        grant.check("send", *resources(config.wake_stream))


def _subscription(name: str) -> Subscription:
    return Subscription.ref(stream_key(name)).options(timeout=PATIENCE)


async def _claim(request: Request, name: str) -> Response:
    worker = (await _body(request, _Claim)).worker
    outcome = _checked(await _subscription(name).claim(worker))
    assert outcome.info is not None
    assert outcome.grasp is not None
    return _told(
        {
            "wake_id": outcome.grasp.wake_id,
            "generation": outcome.grasp.generation,
            "token": outcome.grasp.token,
            "streams": outcome.info.streams,
            "lease_ttl_ms": outcome.info.config.lease_ttl_ms,
        }
    )


def _grasp(request: Request, held: _Held) -> Grasp:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _problem(401, "UNAUTHORIZED", "the token of the wake goes into Authorization: Bearer")
    return Grasp(held.wake_id, held.generation, token.strip())


async def _public_keys() -> list[PublicKey]:
    found: list[PublicKey] = await actor_ref(keys_address()).public()
    return found


async def _jwks() -> Response:
    return Response(
        msgspec.json.encode({"keys": await _public_keys()}),
        headers={"Cache-Control": "public, max-age=300"},
        media_type="application/jwk-set+json",
    )


async def _body(request: Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await read_body(request, _MOST_BODY), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the body: {error}") from None


def _paths(paths: list[str]) -> tuple[str, ...]:
    return tuple(map(_path, paths))


def _path(path: str) -> str:
    """A path of a stream as JSON has it: nothing is quoted. Raises ``Problem``."""
    try:
        check_path(path.encode().replace(b"%", b"%25"))
    except ValueError as error:
        raise _invalid(str(error)) from None
    if path.partition("/")[0] == RESERVED:
        raise _invalid(f"{path!r}: the prefix {RESERVED} is reserved")
    return path


def _checked(outcome: SubscriptionOutcome) -> SubscriptionOutcome:
    found = _PROBLEMS.get(outcome.code)
    if found is None:
        return outcome
    more: dict[str, object] = {}
    if outcome.code == "claimed":
        more = {"current_holder": outcome.holder, "generation": outcome.generation}
    raise _problem(*found, more)


def _invalid(detail: str) -> Problem:
    return _problem(400, "INVALID_REQUEST", detail)


def _problem(status: int, code: str, detail: str, more: Mapping[str, object] | None = None) -> Problem:
    """Problem details with what the protocol wants beside them."""
    name = "".join(word.capitalize() for word in code.split("_"))
    return Problem(status, name, detail, extensions={"error": {"code": code, "message": detail, **(more or {})}})


def _info(info: SubscriptionInfo | None) -> dict[str, Any]:
    assert info is not None
    config = info.config
    streams = [
        {"path": s.path, "link_type": s.link_type, "acked_offset": s.acked_offset, "tail_offset": s.tail_offset}
        for s in info.streams
    ]
    return {
        "id": info.name,
        "subscription_id": info.name,
        "type": config.type,
        "pattern": config.pattern,
        "streams": streams,
        "webhook": {"url": config.webhook_url} if config.webhook_url is not None else None,
        "wake_stream": config.wake_stream,
        "lease_ttl_ms": config.lease_ttl_ms,
        "created_at": info.created_at,
        "status": "failed" if info.failing else "active",
        "description": config.description,
    }


def _told(body: object, *, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )
