"""All links of one runtime."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from actors.envelope import Envelope
from actors.ports import LinkHandler
from cluster.transport import frame
from cluster.transport.credentials import Credentials
from cluster.transport.dial import Dial
from cluster.transport.handshake import Identity, Introduction, Stream
from cluster.transport.link import GrpcLink
from cluster.transport.listener import Listener
from cluster.transport.options import is_loopback
from cluster.transport.refusal import WrongSilo

_TEARDOWN: Final = 1.0  # seconds for gRPC to wake those that wait for a stream that is gone

_log = logging.getLogger(__name__)


class GrpcTransport:
    """Links to other silos and clients, each over one gRPC stream (see ``actors.ports.Transport``).

    ``name`` is the own id: a silo's ``name.incarnation``, or an id that a client made up and nobody else has.
    ``endpoints`` maps a silo id to its ``host:port``, None if it is not known. ``max_payload`` is the largest encoded
    envelope in bytes that this side takes, ``window`` how many bytes a peer may have under way to it, ``max_queued``
    how many bytes may wait for one slow peer before requests to it are refused. Times are in seconds: a dial takes at
    most ``connect_timeout``, a silent peer is given up after about twice ``keepalive``.

    Without ``welcome`` it takes clients only when that is called. ``on_suspect`` is told of a silo whose connection
    broke without a goodbye, or was refused.

    Silos call ``listen``; clients only dial. To be used on one running loop.
    """

    def __init__(
        self,
        *,
        name: str,
        cluster: str,
        handler: LinkHandler,
        endpoints: Callable[[str], str | None],
        credentials: Credentials,
        max_payload: int = frame.DEFAULT_MAX_PAYLOAD,
        window: int = frame.DEFAULT_WINDOW,
        max_queued: int | None = None,
        connect_timeout: float = 3.0,
        close_timeout: float = 2.0,
        keepalive: float = 3.0,
        insecure: bool = False,
        welcome: bool = True,
        on_suspect: Callable[[str], None] | None = None,
    ) -> None:
        if window < frame.MIN_WINDOW:
            raise ValueError(f"window is {window} bytes, but must be at least {frame.MIN_WINDOW}")
        self._identity = Identity(
            id=name, cluster=cluster, credentials=credentials, window=window, max_payload=max_payload
        )
        self._handler = handler
        self._endpoints = endpoints
        self._max_queued = 64 * frame.MIB + max_payload if max_queued is None else max_queued
        self._connect_timeout = connect_timeout
        self._close_timeout = close_timeout
        self._keepalive = keepalive
        self._insecure = insecure
        self._on_suspect = on_suspect

        self._links: dict[str, GrpcLink] = {}  # by peer: the one to send on
        self._open: set[GrpcLink] = set()
        self._accepted: dict[str, GrpcLink] = {}  # by silo
        self._dials: dict[tuple[str, str], asyncio.Task[GrpcLink]] = {}  # by expected silo and endpoint
        self._attending: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self._on_loopback = True
        self._retired = False
        self._welcoming = welcome
        self._closing: asyncio.Task[None] | None = None
        self._impatient = False
        self._all_closed: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """The own id."""
        return self._identity.id

    @property
    def links(self) -> list[GrpcLink]:
        """All open links, those that are only received on included."""
        return list(self._open)

    async def listen(self, address: str) -> str:
        """Accept links on ``host:port`` (port 0 picks a free one) and return the bound address.

        Raises ``ValueError`` for an address beyond this machine without credentials, ``OSError`` if it cannot be
        bound or the TLS files cannot be read.
        """
        if self._listener is not None:
            raise RuntimeError(f"{self.name} already listens")
        on_loopback = is_loopback(address)
        if self._identity.credentials.none and not on_loopback and not self._insecure:
            raise ValueError(
                f"{self.name} must not listen on {address} without credentials: whoever reaches that port could run"
                " code here. Set a token or TLS certificates, listen on 127.0.0.1, or pass insecure=True"
                " (--insecure) on a network where everyone is trusted"
            )
        listener = Listener(
            self._identity,
            opened=self._accept,
            closed_to=self._closed_to,
            handshake_timeout=self._connect_timeout,
            keepalive=self._keepalive,
        )
        bound = await listener.listen(address)
        self._listener = listener
        self._on_loopback = on_loopback
        return bound

    def link(self, silo: str) -> GrpcLink | None:
        """The open link that is used for sending to this silo or client, if there is one."""
        return self._links.get(silo)

    async def connect(self, silo: str) -> GrpcLink:
        """The open link to the silo, or a new one. Concurrent calls share one dial.

        Raises within ``connect_timeout``: ``ConnectionRefusedError`` if nothing listens there, ``WrongSilo``,
        ``WrongCluster``, ``UnsupportedVersion`` or another ``ConnectionError`` with the reason; ``NotAuthorized`` if
        the two sides' credentials do not fit. Cancelling a call leaves the dial to the others.
        """
        link = self._links.get(silo)
        if link is not None:
            return link
        if silo == self.name:
            raise ConnectionError(f"{silo} is this silo itself")
        endpoint = self._endpoints(silo)
        if endpoint is None:
            raise ConnectionError(f"no link to {silo}: its endpoint is not known")
        return await self._shared_dial(silo, endpoint)

    async def probe(self, silo: str, endpoint: str) -> None:
        """Make sure that the silo answers at ``host:port``, on a connection of its own. Raises like ``connect``."""
        dial = Dial(self._identity, endpoint, keepalive=self._keepalive)
        try:
            await dial.introduce(expected=silo, is_silo=True, timeout=self._connect_timeout)
        finally:
            await dial.hang_up()

    def give_up(self, silo: str, reason: str) -> None:
        """End every link to the silo, and every attempt to make one: those who wait for it get ``ConnectionError``."""
        for link in self.links:
            if link.peer == silo:
                link.end(reason)
        for (expected, _), dial in list(self._dials.items()):
            if expected == silo:
                dial.cancel()

    async def connect_to(self, endpoint: str) -> GrpcLink:
        """A link to whichever silo listens on ``host:port``: the open one, if there is one. Raises like ``connect``."""
        return await self._shared_dial("", endpoint)

    def welcome(self) -> None:
        """Take clients from now on."""
        self._welcoming = True

    def retire(self) -> None:
        """Tell clients to go elsewhere with what they begin from now on, and take no new ones. Answers go on."""
        self._retired = True
        for link in self._open:
            if not link.peer_is_silo and link.version >= frame.GOODBYE:
                link.leave()

    async def close(self, *, at_once: bool = False) -> None:
        """Send what is queued, say goodbye and close everything, within about twice ``close_timeout`` and a second.

        ``at_once``: end every link as a crash would, without a word. Handlers hear of each link's end before this
        returns. Later calls of ``connect`` raise ``ConnectionError``.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(at_once=at_once))
        await asyncio.shield(self._closing)

    # Dialling

    async def _shared_dial(self, silo: str, endpoint: str) -> GrpcLink:
        if self._closing is not None:
            raise ConnectionError(f"no link to {silo or endpoint}: {self.name} is closing")
        key = (silo, endpoint)
        dial = self._dials.get(key)
        if dial is None:
            dial = self._dials[key] = asyncio.create_task(self._dial(silo, endpoint))
            dial.add_done_callback(lambda task: self._dialled(key, task))
        try:
            return await asyncio.shield(dial)
        except asyncio.CancelledError:
            if not dial.cancelled() or _is_cancelled():
                raise
            raise ConnectionError(f"no link to {silo or endpoint}: {self._why_given_up()}") from None

    def _why_given_up(self) -> str:
        return "it is no longer a member" if self._closing is None else f"{self.name} is closing"

    def _dialled(self, key: tuple[str, str], task: asyncio.Task[GrpcLink]) -> None:
        self._dials.pop(key, None)
        if not task.cancelled():
            error = task.exception()  # if all who waited were cancelled, nobody else asks for it
            if isinstance(error, ConnectionRefusedError | WrongSilo):
                self._suspect(key[0])

    def _suspect(self, silo: str) -> None:
        if silo and self._on_suspect is not None and self._closing is None:
            self._on_suspect(silo)

    async def _dial(self, silo: str, endpoint: str) -> GrpcLink:
        try:
            dial = Dial(self._identity, endpoint, keepalive=self._keepalive)
        except OSError as error:
            raise ConnectionError(f"no link to {silo or endpoint}: the TLS files cannot be read: {error}") from error
        try:
            introduction, opening = await dial.introduce(
                expected=silo, is_silo=self._listener is not None, timeout=self._connect_timeout
            )
        except BaseException:
            await dial.hang_up()
            raise
        link = self._links.get(introduction.id)
        if link is not None:
            # The other side was faster. It has no link for this dial until it is sent the opening frame.
            self._attend(dial.hang_up(politely=self._close_timeout))
            return link
        link = self._make_link(dial.stream, introduction, endpoint)
        link.send_first(opening)
        self._register(link)
        self._attend(self._run(dial, link))
        return link

    async def _run(self, dial: Dial, link: GrpcLink) -> None:
        try:
            await link.run()
        finally:
            # Half of the time for the write that is under way, half for the other side to end the stream.
            patience = 0 if self._impatient else self._close_timeout / 2
            await dial.hang_up(politely=patience if await link.settled(patience) else 0)

    def _attend(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    # Links

    def _closed_to(self, introduction: Introduction) -> str:
        """Whoever is refused knows that nothing was taken; a link that ends at once could have taken something."""
        if introduction.is_silo:
            return "more links: it is closing" if self._closing is not None else ""
        if self._closing is not None or self._retired:
            return "more clients: it is draining"
        return "" if self._welcoming else "clients yet: it is joining the cluster"

    def _accept(self, stream: Stream, introduction: Introduction, where: str) -> GrpcLink | None:
        if self._closing is not None:
            return None
        link = self._make_link(stream, introduction, where)
        self._register(link)
        if link.peer_is_silo:
            # A silo dials only when the link that it dialled before is gone, so here the same one cannot be alive.
            before = self._accepted.get(link.peer)
            self._accepted[link.peer] = link
            if before is not None:
                before.end(f"{link.peer} has dialled again")
        return link

    def _make_link(self, stream: Stream, introduction: Introduction, where: str) -> GrpcLink:
        credentials = self._identity.credentials
        return GrpcLink(
            stream,
            introduction,
            trusted=not credentials.none or (self._on_loopback and is_loopback(where)),
            window=self._identity.window,
            max_payload=self._identity.max_payload,
            max_queued=self._max_queued,
            on_envelopes=self._handler.on_envelopes,
            on_closed=self._closed,
            on_goodbye=self._unlist,
        )

    def _register(self, link: GrpcLink) -> None:
        self._open.add(link)
        self._links.setdefault(link.peer, link)

    def _closed(self, link: GrpcLink, unsent: list[Envelope]) -> None:
        self._open.discard(link)
        if self._accepted.get(link.peer) is link:
            del self._accepted[link.peer]
        self._unlist(link)
        if not self._open and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)
        self._attend(link.finish(self._close_timeout + _TEARDOWN))
        _log.info("link between %s and %s ended: %s", self.name, link.peer, link.reason)
        try:
            self._handler.on_closed(link, unsent)
        except Exception:
            _log.exception("the handler failed on the end of the link to %s", link.peer)
        if link.broken and link.peer_is_silo:
            self._suspect(link.peer)

    def _unlist(self, link: GrpcLink) -> None:
        """Send nothing new on the link."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            for other in self._open:
                if other.peer == link.peer and not other.departing:
                    self._links[link.peer] = other
                    break

    async def _close(self, *, at_once: bool) -> None:
        for dial in list(self._dials.values()):
            dial.cancel()
        if self._open and not at_once:
            self._all_closed = asyncio.get_running_loop().create_future()
            for link in list(self._open):
                link.close()
            await asyncio.wait({self._all_closed}, timeout=self._close_timeout)
        self._impatient = True
        for link in list(self._open):
            link.end(f"{self.name} was closed")
        pending: set[asyncio.Task[Any]] = {*self._attending, *self._dials.values()}
        if self._listener is not None:
            pending.add(asyncio.create_task(self._listener.close(self._close_timeout / 2)))
        if pending:
            _, pending = await asyncio.wait(pending, timeout=self._close_timeout + _TEARDOWN)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=self._close_timeout)


def _is_cancelled() -> bool:
    """Whether the current task is being cancelled, and not only what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
