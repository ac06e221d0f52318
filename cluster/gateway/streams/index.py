"""Which streams there are, and which subscriptions want to hear of them: a part of both, by a hash of the path."""

import msgspec

from actors import Actor, actor_ref, handler
from cluster.gateway.streams.names import stream_address


class IndexState(msgspec.Struct):
    """Creation times of streams by path; patterns and the times since when they are watched, by subscription."""

    streams: dict[str, float] = {}
    patterns: dict[str, tuple[str, float]] = {}


class StreamIndex(Actor, type="stream_index", idle_timeout=60):
    """One part of the index of all streams."""

    state: IndexState

    @handler
    async def added(self, path: str, at: float) -> None:
        """A stream was created."""
        self.state.streams[path] = at
        for subscription, (pattern, since) in self.state.patterns.items():
            if matches(pattern, path):
                await actor_ref(stream_address(path)).watch.send(subscription, path, from_start=at >= since)

    @handler
    async def removed(self, path: str) -> None:
        """A stream is gone."""
        self.state.streams.pop(path, None)

    @handler
    async def watch(self, subscription: str, pattern: str, at: float) -> None:
        """Tell the subscription of all streams whose path matches: of these their tail, of those to come everything."""
        self.state.patterns[subscription] = pattern, at
        for path in self.state.streams:
            if matches(pattern, path):
                await actor_ref(stream_address(path)).watch.send(subscription, path, from_start=False)

    @handler
    async def unwatch(self, subscription: str) -> None:
        """Tell the subscription nothing any more."""
        self.state.patterns.pop(subscription, None)


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a path: ``*`` is one segment or a part of it, ``**`` any number of segments, also none.

    Takes time in proportion to the product of both lengths at most, whatever the pattern.
    """
    segments = path.split("/")
    reached = [True] + [False] * len(segments)  # how many segments the pattern so far can have taken
    for part in pattern.split("/"):
        if part == "**":
            first = reached.index(True) if True in reached else len(reached)
            reached = [count >= first for count in range(len(reached))]
        else:
            reached = [
                False,
                *(was and _matches_segment(part, text) for was, text in zip(reached, segments, strict=False)),
            ]
    return reached[-1]


def _matches_segment(pattern: str, text: str) -> bool:
    first, *middle = pattern.split("*")
    if not middle:
        return text == first
    last = middle.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for literal in middle:
        found = text.find(literal, place, end)
        if found < 0:
            return False
        place = found + len(literal)
    return True
