"""What an activation takes along when it moves to another silo: what is in its memory and nowhere else."""

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from actors import codec, failure
from actors.errors import ActorError

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.timer import Timer

log = logging.getLogger("actors")


class PackedTimer(msgspec.Struct, array_like=True, frozen=True):
    """A timer that calls a method of its actor."""

    method: str
    args: bytes
    after: float
    every: float | None


class Luggage(msgspec.Struct, array_like=True, frozen=True):
    """Fields may be added at the end, with a default: silos of two releases hand activations to each other."""

    state: bytes | None = None
    """Of an actor whose state no store has."""
    carried: dict[str, bytes] = {}
    """The attributes that the class option ``carries`` names."""
    timers: list[PackedTimer] = []


_decoder = msgspec.msgpack.Decoder(Luggage)


def pack(activation: "Activation") -> bytes:
    """What the activation has in memory, encoded; empty if that is nothing. What cannot travel is named in the log."""
    luggage = Luggage(_pack_state(activation), _pack_attributes(activation), _pack_timers(activation))
    return b"" if luggage == Luggage() else msgspec.msgpack.encode(luggage)


def _pack_state(activation: "Activation") -> bytes | None:
    actor_type = activation.type
    if actor_type.state is None or actor_type.stored:
        return None
    try:
        return actor_type.state.encode(activation.actor.state, activation.address)
    except ActorError as error:
        log.error("%s; it is lost, because the actor moves", error)
        return None


def _pack_attributes(activation: "Activation") -> dict[str, bytes]:
    packed = {}
    for name in activation.type.options.carries:
        try:
            packed[name] = codec.encode(getattr(activation.actor, name))
        except AttributeError:
            continue  # nothing was ever put there
        except Exception as error:  # whatever a value's own pickling raises
            log.error("%s: self.%s does not travel: %s", activation.address, name, failure.message(error))
    return packed


def _pack_timers(activation: "Activation") -> list[PackedTimer]:
    packed = []
    for timer in activation.timers_left():
        method = timer.method_of(activation.actor)
        if method is None:
            log.warning("%s: a timer does not travel: %r is no method of the actor", activation.address, timer.callback)
            continue
        try:
            packed.append(PackedTimer(method, codec.encode(timer.args), timer.left(), timer.every))
        except Exception as error:
            log.warning("%s: the timer of %s does not travel: %s", activation.address, method, failure.message(error))
    return packed


def unpack(packed: bytes, address: str) -> Luggage:
    """What was packed; nothing if it cannot be read, which is then said in the log."""
    if not packed:
        return Luggage()
    try:
        return _decoder.decode(packed)
    except msgspec.DecodeError as error:
        log.error("%s: what it had in memory is lost: %s", address, error)
        return Luggage()


def put_back_attributes(activation: "Activation", luggage: Luggage) -> None:
    """Before ``on_activate``, which may look at them."""
    for name, packed in luggage.carried.items():
        try:
            setattr(activation.actor, name, codec.decode(packed, trusted=True))
        except Exception as error:  # of a class that this silo's code has no more, say
            log.error("%s: self.%s did not arrive: %s", activation.address, name, failure.message(error))


def put_back_timers(activation: "Activation", luggage: Luggage) -> None:
    """After ``on_activate``: a timer that it has set like one that came along is that one, and keeps its time."""
    own = {_likeness(timer, activation.actor): timer for timer in activation.timers_left()}
    for packed in luggage.timers:
        callback = getattr(activation.actor, packed.method, None)
        if callback is None:
            log.error("%s: the timer of %s did not arrive: there is no such method", activation.address, packed.method)
            continue
        try:
            args: tuple[Any, ...] = tuple(codec.decode(packed.args, trusted=True))
        except ActorError as error:  # of a class that this silo's code has no more, say
            log.error("%s: the timer of %s did not arrive: %s", activation.address, packed.method, error)
            continue
        same = own.pop((packed.method, packed.args, packed.every), None)
        if same is not None:
            same.cancel()
        activation.add_timer(callback, args, after=packed.after, every=packed.every)


def _likeness(timer: "Timer", actor: object) -> tuple[str | None, bytes, float | None]:
    try:
        args = codec.encode(timer.args)
    except Exception:  # such a one did not travel either
        args = b""
    return timer.method_of(actor), args, timer.every
