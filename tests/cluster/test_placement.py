"""Where new activations go: every strategy, on members that exist on paper only."""

from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest

from actors.errors import ClusterUnavailable, UnknownActorType
from cluster.member import Member
from cluster.placement import Placement, newer


def member(name: str, *, strategy: str = "balanced", **fields: object) -> Member:
    record = Member(silo=f"{name}.1", name=name, endpoint=f"{name}:7400", types={"session": strategy})
    return Member(**{**{f: getattr(record, f) for f in Member.__struct_fields__}, **fields})


def members(*names: str, strategy: str = "balanced") -> dict[str, Member]:
    return {f"{name}.1": member(name, strategy=strategy) for name in names}


def spread(placement: Placement, among: Mapping[str, Member], *, count: int = 900) -> Counter[str]:
    return Counter(placement.choose(f"session-{number}", among) for number in range(count))


FIVE = ("n1", "n2", "n3", "n4", "n5")


# -- who can be chosen at all ------------------------------------------------------------------------------------------


def test_no_members() -> None:
    with pytest.raises(ClusterUnavailable, match="session-1: no silo is a member"):
        Placement("n1.1").choose("session-1", {})


def test_an_unknown_type_is_refused_with_the_types_of_all_members() -> None:
    among = {"n1.1": member("n1", types={"zebra": "balanced"}), "n2.1": member("n2", types={"ant": "hash"})}
    with pytest.raises(UnknownActorType, match=r"session-1: no silo hosts .*'session' \(known types: ant, zebra\)"):
        Placement("n1.1").choose("session-1", among)


def test_members_without_any_type() -> None:
    with pytest.raises(UnknownActorType, match="known types: none"):
        Placement("n1.1").choose("session-1", {"n1.1": member("n1", types={})})


def test_only_members_that_host_the_type_are_chosen() -> None:
    among = members(*FIVE) | {"n6.1": member("n6", types={"story": "balanced"})}
    assert "n6.1" not in spread(Placement("n6.1", seed=1), among)


@pytest.mark.parametrize("strategy", ["balanced", "local", "hash", "random"])
def test_draining_members_get_nothing_new(strategy: str) -> None:
    among = members("n1", "n2", strategy=strategy) | {"n3.1": member("n3", strategy=strategy, draining=True)}
    assert "n3.1" not in spread(Placement("n3.1", seed=1), among, count=50)


def test_everyone_draining_is_said() -> None:
    with pytest.raises(ClusterUnavailable, match="session-1: every silo that hosts 'session' is draining"):
        Placement("n1.1").choose("session-1", {"n1.1": member("n1", draining=True)})


# -- balanced ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_balanced_is_even(count: int) -> None:
    among = members(*FIVE[:count])
    placed = spread(Placement("n1.1", seed=1), among)
    assert len(placed) == count
    assert max(placed.values()) - min(placed.values()) <= 0.02 * 900 + 1, placed


def test_balanced_fills_up_who_has_less() -> None:
    among = members("n1", "n2", "n3") | {"n1.1": member("n1", load=1_000)}
    placed = spread(Placement("n1.1", seed=1), among)
    assert placed["n1.1"] == 0
    assert abs(placed["n2.1"] - placed["n3.1"]) < 30


def test_balanced_counts_what_it_placed_until_the_load_is_reported() -> None:
    placement = Placement("n1.1", seed=1)
    among = members("n1", "n2") | {"n2.1": member("n2", load=100)}
    assert spread(placement, among, count=100) == {"n1.1": 100}

    assert abs(spread(placement, among, count=100)["n1.1"] - 50) <= 1  # both are at 100 now

    placement.on_load("n1.1")  # 150 were placed there; it reports 0 of them, so it is the emptier one
    assert spread(placement, among, count=100)["n1.1"] == 100


# -- the others --------------------------------------------------------------------------------------------------------


def test_local_prefers_the_own_silo() -> None:
    assert set(spread(Placement("n2.1"), members("n1", "n2", strategy="local"))) == {"n2.1"}


def test_local_falls_back_to_balanced_where_the_own_silo_cannot() -> None:
    placed = spread(Placement("n9.1", seed=1), members("n1", "n2", strategy="local"))
    assert abs(placed["n1.1"] - placed["n2.1"]) <= 1


def test_hash_is_the_same_for_every_silo_and_incarnation() -> None:
    among = members(*FIVE, strategy="hash")
    restarted = {f"{name}.2": member(name, silo=f"{name}.2", strategy="hash") for name in reversed(FIVE)}
    for number in range(200):
        address = f"session-{number}"
        chosen = {Placement(f"{name}.1").choose(address, among) for name in FIVE}
        assert len(chosen) == 1
        after_restart = Placement("n1.2").choose(address, restarted)
        assert chosen.pop().partition(".")[0] == after_restart.partition(".")[0]


def test_hash_moves_only_what_lived_on_the_member_that_left() -> None:
    placement, among = Placement("n1.1"), members(*FIVE, strategy="hash")
    before = {f"session-{number}": placement.choose(f"session-{number}", among) for number in range(1_000)}
    del among["n3.1"]
    after = {address: placement.choose(address, among) for address in before}

    moved = [address for address in before if before[address] != after[address]]
    assert {before[address] for address in moved} == {"n3.1"}
    assert len(moved) == list(before.values()).count("n3.1")
    assert len({after[address] for address in moved}) == 4, "what moved should spread over all that are left"


def test_hash_is_even() -> None:
    placed = spread(Placement("n1.1"), members(*FIVE, strategy="hash"), count=5_000)
    assert len(placed) == 5
    assert all(800 < count < 1_200 for count in placed.values()), placed


def test_random_reaches_everyone() -> None:
    placed = spread(Placement("n1.1", seed=1), members(*FIVE, strategy="random"))
    assert len(placed) == 5
    assert all(100 < count < 260 for count in placed.values()), placed


@pytest.mark.parametrize("strategy", ["labels:gpu=1", "labels: gpu = 1 ", "labels:gpu=1,zone=a"])
def test_labels_choose_among_those_that_have_them(strategy: str) -> None:
    among = {
        "n1.1": member("n1", strategy=strategy, labels={"gpu": "1", "zone": "a"}),
        "n2.1": member("n2", strategy=strategy, labels={"gpu": "0", "zone": "a"}),
        "n3.1": member("n3", strategy=strategy, labels={"gpu": "1", "zone": "a"}),
        "n4.1": member("n4", strategy=strategy),
    }
    placed = spread(Placement("n2.1", seed=1), among)
    assert set(placed) == {"n1.1", "n3.1"}
    assert abs(placed["n1.1"] - placed["n3.1"]) <= 1


def test_every_label_must_fit() -> None:
    strategy = "labels:gpu=1,zone=b"
    among = {"n1.1": member("n1", strategy=strategy, labels={"gpu": "1", "zone": "a"})}
    with pytest.raises(ClusterUnavailable, match="session-1: no silo has the labels 'gpu=1,zone=b'"):
        Placement("n1.1").choose("session-1", among)


# -- a user's own ------------------------------------------------------------------------------------------------------


def test_a_callable_gets_the_address_and_the_candidates() -> None:
    placement, seen = Placement("n1.1"), []
    among = members("n1", "n2") | {"n3.1": member("n3", draining=True)}

    def last(address: str, candidates: list[Member]) -> str:
        seen.append((address, [candidate.name for candidate in candidates]))
        return candidates[-1].silo

    placement.functions["session"] = last
    assert placement.choose("session-7", among) == "n2.1"
    assert seen == [("session-7", ["n1", "n2"])]


@pytest.mark.parametrize("chosen", ["n3.1", "n1", "", None, 1, {}])
def test_a_callable_that_chooses_no_candidate_is_refused(chosen: object) -> None:
    placement = Placement("n1.1")
    placement.functions["session"] = lambda address, candidates: chosen  # type: ignore[assignment,return-value]
    with pytest.raises(ClusterUnavailable, match=f"session-1: its placement function chose {chosen!r}"):
        placement.choose("session-1", members("n1", "n2") | {"n3.1": member("n3", draining=True)})


def test_a_callable_that_raises_refuses_the_call_with_the_reason() -> None:
    """Any other error would end the task that resolves the address, and everyone who waits for it would hang."""
    placement = Placement("n1.1")
    known: dict[str, str] = {}
    placement.functions["session"] = lambda address, candidates: known[address]
    with pytest.raises(
        ClusterUnavailable, match="session-1: its placement function raised KeyError: 'session-1'"
    ) as error:
        placement.choose("session-1", members("n1"))
    assert isinstance(error.value.__cause__, KeyError)


# -- versions of the code ----------------------------------------------------------------------------------------------


def versions(strategy: str = "balanced", **of: str) -> dict[str, Member]:
    return {f"{name}.1": member(name, strategy=strategy, version=version) for name, version in of.items()}


@pytest.mark.parametrize("strategy", ["balanced", "local", "hash", "random"])
def test_only_the_newest_code_gets_new_activations(strategy: str) -> None:
    among = versions(strategy, n1="1.9", n2="1.10", n3="1.10", n4="")
    chosen = spread(Placement("n1.1", seed=1), among, count=200)
    assert set(chosen) == {"n2.1", "n3.1"}, "n1, which chooses, is older: local or not"


def test_local_is_local_among_the_newest() -> None:
    among = versions("local", n1="1", n2="2", n3="2")
    assert set(spread(Placement("n3.1"), among, count=50)) == {"n3.1"}


def test_hash_is_the_same_for_all_who_choose_while_old_and_new_run_side_by_side() -> None:
    among = versions("hash", n1="1", n2="2", n3="2", n4="2")
    for number in range(50):
        assert len({Placement(silo).choose(f"session-{number}", among) for silo in among}) == 1


def test_labels_come_before_versions() -> None:
    """A new silo without the GPU cannot run what asks for one, however new it is."""
    among = versions("labels:gpu=1", n1="1", n2="1", n3="2")
    among = {silo: msgspec.structs.replace(found, labels={"gpu": "1"}) for silo, found in among.items()}
    among["n3.1"] = msgspec.structs.replace(among["n3.1"], labels={})
    assert set(spread(Placement("n3.1", seed=1), among, count=50)) == {"n1.1", "n2.1"}
    assert newer("n1.1", "session", among) == []
    among["n3.1"] = msgspec.structs.replace(among["n3.1"], labels={"gpu": "1"})
    assert set(spread(Placement("n1.1", seed=1), among, count=50)) == {"n3.1"}
    assert newer("n1.1", "session", among) == ["n3.1"]


def test_a_callable_gets_the_newest() -> None:
    placement, seen = Placement("n1.1"), []

    def first(address: str, candidates: list[Member]) -> str:
        seen.append([candidate.name for candidate in candidates])
        return candidates[0].silo

    placement.functions["session"] = first
    assert placement.choose("session-1", versions(n1="1", n2="2", n3="2")) == "n2.1"
    assert seen == [["n2", "n3"]]


def test_new_silos_that_drain_leave_it_to_the_old() -> None:
    among = versions(n1="1") | {"n2.1": member("n2", version="2", draining=True)}
    assert Placement("n2.1").choose("session-1", among) == "n1.1"
    assert newer("n1.1", "session", among) == []


def test_a_type_goes_to_those_that_host_it_however_old_or_new_they_are() -> None:
    among = versions(n1="1", n2="2")
    among["n1.1"] = msgspec.structs.replace(among["n1.1"], types={"gone": "balanced"})
    assert Placement("n1.1").choose("gone-1", among) == "n1.1", "the new code has it no more"
    assert Placement("n1.1").choose("session-1", among) == "n2.1", "only the new code has it"
    assert newer("n1.1", "gone", among) == []


def test_the_newest_code_says_how_its_type_is_placed() -> None:
    among = versions("local", n1="1") | versions("labels:gpu=1", n2="2", n3="2")
    among["n3.1"] = msgspec.structs.replace(among["n3.1"], labels={"gpu": "1"})
    assert set(spread(Placement("n1.1"), among, count=20)) == {"n3.1"}


def test_versions_that_are_as_good_as_equal_are_spread_over_as_ever() -> None:
    among = versions(n1="1.2", n2="1.2.0", n3="v1.2")
    assert set(spread(Placement("n1.1", seed=1), among, count=100)) == set(among)
    assert newer("n1.1", "session", among) == []


def test_who_is_newer() -> None:
    among = versions(n1="1", n2="2", n3="3", n4="")
    assert newer("n1.1", "session", among) == ["n2.1", "n3.1"]
    assert newer("n3.1", "session", among) == []
    assert newer("n4.1", "session", among) == ["n1.1", "n2.1", "n3.1"]
    assert newer("n1.1", "story", among) == []
    assert newer("n9.1", "session", among) == [], "who is no member claims nothing"
