"""Carries wakes to webhooks: one HTTP request each, to an address that was checked."""

import asyncio
import base64
import contextlib
import http.client
import logging
import socket
import ssl
import time

import msgspec

from actors import Actor, actor_ref, handler
from actors.errors import ActorError
from cluster.gateway.streams.subscription_state import Delivery
from cluster.gateway.streams.webhook_keys import Signature, keys_address
from cluster.gateway.streams.webhook_url import Target, UnsafeUrl, check_url, resolve

log = logging.getLogger("cluster.gateway")

_MOST_ANSWER = 64 * 1024


class WebhookCourier(Actor, type="webhook_courier", idle_timeout=60):
    """Delivers the wakes of one subscription. After a crash a request may go out twice, with one wake id."""

    @handler
    async def deliver(self, subscription: str, delivery: Delivery) -> None:
        """Send the request and tell the subscription what came of it."""
        answer = await self._post(delivery)
        done = False
        if answer is not None:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                found = msgspec.json.decode(answer)
                done = isinstance(found, dict) and found.get("done") is True
        await actor_ref(subscription).delivered.send(delivery, answer is not None, done)

    async def _post(self, delivery: Delivery) -> bytes | None:
        """The answer of the webhook; None if it did not take the wake."""
        body = msgspec.json.encode(
            {
                "subscription_id": delivery.subscription,
                "wake_id": delivery.grasp.wake_id,
                "generation": delivery.grasp.generation,
                "streams": delivery.streams,
                "callback_url": delivery.callback_url,
                "callback_token": delivery.grasp.token,
            }
        )
        at = str(int(time.time()))
        try:
            signature: Signature = await actor_ref(keys_address()).sign(f"{at}.".encode() + body)
            value = base64.urlsafe_b64encode(signature.value).rstrip(b"=").decode()
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "agentsilo",
                "Webhook-Signature": f"t={at},kid={signature.kid},ed25519={value}",
            }
            async with asyncio.timeout(delivery.timeout + 5):  # a thread that hangs in a name server is left alone
                status, answer = await asyncio.to_thread(_request, delivery, body, headers)
        except (ActorError, OSError, TimeoutError, UnsafeUrl, http.client.HTTPException) as error:
            log.warning("the webhook of subscription %s did not take a wake: %r", delivery.subscription, error)
            return None
        if not 200 <= status < 300:
            log.warning("the webhook of subscription %s answered %d", delivery.subscription, status)
            return None
        return answer


def _request(delivery: Delivery, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    target = check_url(delivery.url, local=delivery.local)
    address = resolve(target, local=delivery.local)
    connection = _Pinned(target, address, delivery.timeout)
    try:
        connection.request("POST", target.path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(_MOST_ANSWER)
    finally:
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to the address that was checked, for the name that was meant: redirects are not followed."""

    def __init__(self, target: Target, address: str, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._target = target
        self._address = address

    def connect(self) -> None:
        """See ``HTTPConnection``."""
        sock = socket.create_connection((self._address, self._target.port), self.timeout)
        if self._target.secure:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self._target.host)
        self.sock = sock
