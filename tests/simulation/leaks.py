"""What a runtime of the simulation must not hold: calls on links that are gone, and whatever nobody waits for."""

from actors.runtime import Runtime
from tests.simulation.history import History


def check_links(history: History, name: str, runtime: Runtime) -> None:
    """A call whose link is gone was told so."""
    for call in runtime.calls.values():
        if call.link is not None and call.link.closed:
            history.violate(
                "calls on a lost link end", call.request.message_id, address=call.request.address,
                expected=f"{name} to end or resend it when the link to {call.link.peer} closed",
                actual="it is still under way on the closed link",
            )  # fmt: skip


def leaks_of(runtime: Runtime) -> str:
    """What a runtime still holds that nobody waits for."""
    found = {
        "calls": [f"{type(c).__name__} {c.request.address}.{c.request.handler}" for c in runtime.calls.values()],
        "streams": [str(key[1]) for key in runtime.streams],
        "held": list(runtime.router._held),
        "claims": list(runtime.claims.under_way),
        "activations": list(runtime.activations),
        "tasks": [task.get_coro().__qualname__ for task in runtime._tasks],  # type: ignore[union-attr]
    }
    return ", ".join(f"{name}: {what}" for name, what in found.items() if what)
