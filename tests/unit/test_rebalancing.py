"""The pure decision, and what many silos that take it for themselves come to."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from cluster.member import Member
from cluster.placement import Placement
from cluster.rebalancing import MOST, PAUSE, SLACK, Rebalancer


def member(name: str, load: int, *, draining: bool = False, **types: str) -> Member:
    return Member(
        silo=f"{name}.1", name=name, endpoint="", types=types or {"s": "balanced"}, load=load, draining=draining
    )


def view(*members: Member) -> dict[str, Member]:
    return {member.silo: member for member in members}


def addresses(count: int, type_name: str = "s") -> list[str]:
    return [f"{type_name}-{number}" for number in range(count)]


def test_a_silo_that_joins_is_given_half_of_the_excess_and_then_nobody_hurries() -> None:
    rebalancer = Rebalancer(Placement("n1.1"))
    members = view(member("n1", 200), member("n2", 0))
    moves = rebalancer.plan(addresses(200), 200, members)
    assert len(moves) == 50
    assert {silo for _, silo in moves} == {"n2.1"}
    assert len({address for address, _ in moves}) == 50
    for _ in range(PAUSE):
        assert rebalancer.plan(addresses(150), 150, members) == []
    assert len(rebalancer.plan(addresses(150), 150, view(member("n1", 150), member("n2", 50)))) == 25


def test_a_portion_has_its_limit() -> None:
    members = view(member("n1", 100_000), member("n2", 0))
    assert len(Rebalancer(Placement("n1.1")).plan(addresses(100_000), 100_000, members)) == MOST


@pytest.mark.parametrize("load", [SLACK, SLACK + 100])
def test_small_differences_are_left_alone(load: int) -> None:
    members = view(member("n1", load), member("n2", load - 20))
    assert Rebalancer(Placement("n1.1")).plan(addresses(load), load, members) == []


def test_nothing_goes_to_silos_that_drain_or_do_not_host_it() -> None:
    rebalancer = Rebalancer(Placement("n1.1"))
    members = view(member("n1", 300), member("n2", 0, draining=True), member("n3", 0, other="balanced"))
    assert rebalancer.plan(addresses(300), 300, members) == []


@pytest.mark.parametrize("strategy", ["local", "random"])
def test_only_balanced_actors_are_moved_for_balance(strategy: str) -> None:
    members = view(member("n1", 300, s=strategy), member("n2", 0, s=strategy))
    assert Rebalancer(Placement("n1.1")).plan(addresses(300), 300, members) == []


def test_hashed_actors_follow_the_hash_when_members_change_and_only_then() -> None:
    placement = Placement("n1.1")
    rebalancer = Rebalancer(placement)
    members = view(member("n1", 3000, s="hash"), member("n2", 0, s="hash"))
    here, gone = addresses(3000), set[str]()
    for _ in range(100):
        moves = rebalancer.plan(here, len(here), members)
        assert len(moves) <= MOST
        gone |= {address for address, _ in moves}
        here = [address for address in here if address not in gone]
    assert {placement.choose(address, members) for address in here} == {"n1.1"}
    assert {placement.choose(address, members) for address in gone} == {"n2.1"}
    assert rebalancer.plan(addresses(3000), 3000, members) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=2, max_size=6), st.integers(0, 2**32))
def test_silos_that_decide_for_themselves_settle_and_overshoot_nobody(loads: list[int], seed: int) -> None:
    """Each sees loads that are up to one round old."""
    chance = random.Random(seed)
    silos = {f"n{number}.1": load for number, load in enumerate(loads)}
    deciding = {silo: Rebalancer(Placement(silo)) for silo in silos}
    seen = dict(silos)
    mean = sum(loads) / len(loads)
    for round_number in itertools.count():
        moved = 0
        members = view(*(member(silo.partition(".")[0], load) for silo, load in seen.items()))
        seen = dict(silos)
        for silo in chance.sample(sorted(silos), len(silos)):
            for _, target in deciding[silo].plan(addresses(silos[silo]), silos[silo], members):
                silos[silo] -= 1
                silos[target] += 1
                moved += 1
                assert silos[target] <= mean + MOST * len(loads) * 0.05 + 1, "a storm"
        assert round_number < 400, "it never settles"
        if not moved and max(silos.values()) <= mean * 1.2 + SLACK:
            break


@pytest.mark.parametrize("strategy", ["balanced", "hash"])
def test_nothing_goes_to_a_silo_with_older_code(strategy: str) -> None:
    new = structs.replace(member("n1", 200, s=strategy), version="2")
    old = structs.replace(member("n2", 0, s=strategy), version="1")
    assert Rebalancer(Placement("n1.1")).plan(addresses(200), 200, view(new, old)) == []
    moves = Rebalancer(Placement("n2.1")).plan(addresses(200), 200, view(new, structs.replace(old, load=200)))
    assert {silo for _, silo in moves} <= {"n1.1"}
