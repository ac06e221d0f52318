"""What a store should do, as a dict; and operations to try, as hypothesis draws them."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hypothesis import strategies as st

from actors.ports import Commit, Fenced, Store

Verb: TypeAlias = Literal["open", "commit", "delete", "raise_era"]
Outcome: TypeAlias = bytes | int | str | None


@dataclass(frozen=True)
class Call:
    verb: Verb
    address: str
    epoch: int
    state: bytes | None

    async def run(self, store: Store) -> Outcome:
        """The outcome of the call on the store; a fenced one as text."""
        attempt: Awaitable[bytes | int | None]
        if self.verb == "open":
            attempt = store.open(self.address, self.epoch)
        elif self.verb == "commit":
            attempt = store.commit(Commit(self.address, self.epoch, self.state))
        elif self.verb == "delete":
            attempt = store.delete(self.address, self.epoch)
        else:
            attempt = store.raise_era(self.epoch)
        try:
            return await attempt
        except Fenced as refusal:
            return str(refusal)


@dataclass
class Model:
    """The simplest store that keeps the promises."""

    era: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)

    def run(self, call: Call) -> Outcome:
        """The outcome that the call must have."""
        if call.verb == "raise_era":
            self.era = max(self.era, call.epoch)
            return self.era
        stored = self.epochs.get(call.address, 0)
        if call.epoch < stored or (call.verb != "open" and call.epoch != stored):
            return str(Fenced(call.address, epoch=call.epoch, stored=stored))
        if call.verb == "open":
            self.epochs[call.address] = call.epoch
            return self.states.get(call.address)
        if call.verb == "delete":
            self.states.pop(call.address, None)
        elif call.state is not None:
            self.states[call.address] = call.state
        return None


calls = st.builds(
    Call,
    verb=st.sampled_from(("open", "open", "commit", "commit", "commit", "delete", "raise_era")),
    address=st.sampled_from(("session-1", "session-2", "session-3")),
    epoch=st.integers(1, 4),
    state=st.none() | st.binary(max_size=3),
)
