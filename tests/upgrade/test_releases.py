"""The release before this one and this one, as real processes: side by side, one after the other, and back again."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from actors import actor_ref
from actors.release import RELEASE
from cluster import connect
from cluster.formats import FORMATS
from tests.cluster.processes import ROOT, Cluster, Process, Processes
from tests.cluster.waiting import eventually
from tests.upgrade.release import NotInThisClone, Release

APP: Final = "tests.upgrade.app"
TALK: Final = "tests.upgrade.talk"
ACCOUNTS: Final = 4


class Both:
    """Starts silos and clients of either release, in one cluster."""

    def __init__(self, cluster: Cluster, processes: Processes, old_tree: Path) -> None:
        self.cluster = cluster
        self.folder = cluster.folder
        self._processes = processes
        self._environment = {
            "old": {"PYTHONPATH": f"{old_tree}:{ROOT}"},
            "new": {"PYTHONPATH": str(ROOT)},
        }

    async def silo(self, release: str, name: str, *, version: str = "") -> tuple[Process, str]:
        """A ready silo and its endpoint."""
        env = {**self._environment[release], "SILO_VERSION": version}
        (silo,) = await self.cluster.start(name, app=APP, env=env)
        return silo, (await silo.ready())[0]["grpc"]

    def client(self, release: str, what: str, endpoint: str, key: str) -> Process:
        env = {**self._environment[release], "TEST_FOLDER": str(self.folder), "TEST_CLUSTER": self.cluster.name}
        return self._processes.start(what, endpoint, key, env=env, module=TALK)

    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines() if (self.folder / "notes").exists() else []


@pytest.fixture
def both(cluster: Cluster, processes: Processes, old_tree: Path) -> Both:
    return Both(cluster, processes, old_tree)


# -- clients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "silo"), [("old", "new"), ("new", "old"), ("new", "new")])
async def test_a_client_of_one_release_talks_to_a_silo_of_the_other(
    both: Both, old_tree: Path, client: str, silo: str
) -> None:
    _, endpoint = await both.silo(silo, "n1")
    ended = await both.client(client, "all", endpoint, "a").ended(within=60)
    assert ended.status == 0, ended.err
    assert json.loads(ended.out) == {
        "ask": 2,
        "after a send": 5,
        "stream": [0, 1, 2, 3],
        "channel": [[0, "item", 2], [1, "item", 5]],
        "rest of it": [5],
        "pickled": [1, 3],
        "large": 2_000_000,
        "keyed": [15, 15],
        "errors": {
            "no handler": "UnknownHandler",
            "no type": "UnknownActorType",
            "a used key": "IdempotencyKeyReused",
            "a wrong argument": "SerializationFailed",
            "too late": "Timeout",
        },
        "failed": ["Overdrawn", "by much"],
        "deleted": 0,
        "members": ["n1"],
        "from": str(old_tree if client == "old" else ROOT),
    }


# -- silos -------------------------------------------------------------------------------------------------------------


class Load:
    """Callers whose every call must be answered as if nothing happened, and readers that miss nothing."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(range(ACCOUNTS), 0)
        self.paid = dict.fromkeys(range(ACCOUNTS), 0)
        self.read: dict[int, list[int]] = {number: [] for number in range(ACCOUNTS)}
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for number in range(ACCOUNTS):
            self._tasks += [asyncio.create_task(work(number)) for work in (self._add, self._pay)]
            self._tasks.append(asyncio.create_task(self._read(number)))

    async def _add(self, number: int) -> None:
        account = actor_ref(f"account-in-{number}")
        while not self._stop:
            assert await account.options(timeout=60).add(1) == self.counts[number] + 1
            self.counts[number] += 1

    async def _pay(self, number: int) -> None:
        """Sends that actors make: each arrives once, or the sums are wrong in the end."""
        payer = actor_ref(f"account-payer-{number}")
        while not self._stop:
            await payer.options(timeout=60).pay(1, f"account-payee-{number}")
            self.paid[number] += 1

    async def _read(self, number: int) -> None:
        async for event in actor_ref(f"account-in-{number}").channel("output").subscribe():
            assert (event.offset, event.kind) == (len(self.read[number]), "item")
            self.read[number].append(event.data)

    def failed(self) -> list[BaseException]:
        return [error for task in self._tasks if task.done() and (error := task.exception()) is not None]

    async def goes_on(self, *, calls: int = 5) -> None:
        """Return when every caller has been answered so many times more."""
        counts, paid = dict(self.counts), dict(self.paid)

        def went_on() -> bool:
            assert not self.failed()
            return all(
                self.counts[number] >= counts[number] + calls and self.paid[number] >= paid[number] + calls
                for number in counts
            )

        await eventually("every caller is answered", went_on, within=40)

    async def stop(self) -> None:
        """End the callers, and check that everything took effect once and was read by everyone."""
        self._stop = True
        await asyncio.gather(*(task for number, task in enumerate(self._tasks) if number % 3 != 2))
        for number in range(ACCOUNTS):
            assert await actor_ref(f"account-in-{number}").value() == self.counts[number]
            payee = actor_ref(f"account-payee-{number}")

            async def arrived(payee: Any = payee, number: int = number) -> bool:
                return bool(await payee.value() == self.paid[number])

            await eventually(f"{self.paid[number]} payments of {number} arrive, once each", arrived)
            expected = list(range(1, self.counts[number] + 1))

            def has_read(number: int = number, expected: list[int] = expected) -> bool:
                return self.read[number] == expected

            await eventually(f"the reader of {number} has read all of {len(expected)}", has_read)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("versions", [("", ""), ("1", "2")], ids=["release only", "and code"])
async def test_a_cluster_is_upgraded_under_load_and_rolled_back(
    both: Both, cluster: Cluster, versions: tuple[str, str]
) -> None:
    old, new = versions
    o1, _ = await both.silo("old", "o1", version=old)
    o2, _ = await both.silo("old", "o2", version=old)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        load = Load()
        load.start()
        clients = {release: both.client(release, "load", cluster.etcd, f"of-{release}") for release in ("old", "new")}
        working = asyncio.create_task(actor_ref("worker-1").options(timeout=200).work("job"))
        await actor_ref("account-late").call_later("tea", 5.0)
        await eventually("a turn is in the middle", lambda: both.notes() == ["plan of job", "draft of job"])
        await load.goes_on()

        n1, _ = await both.silo("new", "n1", version=new)
        await load.goes_on()
        await _drain(o2)
        await load.goes_on()
        n2, _ = await both.silo("new", "n2", version=new)
        await _drain(o1)
        await load.goes_on()
        await _is_all_new(client, new)

        (both.folder / "go-job").touch()
        assert await working == "plan of job, draft of job"
        assert both.notes().count("plan of job") == 1, "a finished step never runs again, of whichever release its silo"
        await eventually("the reminder has come", lambda: _heard(["tea"]))

        await both.silo("old", "o3", version=old)
        await load.goes_on()
        await _drain(n1)
        await load.goes_on()
        await _drain(n2)
        await load.goes_on()
        assert [member.name for member in await client.members()] == ["o3"]
        await load.stop()
        (both.folder / "stop").touch()
        for release, client_process in clients.items():
            ended = await client_process.ended()
            talked = json.loads(ended.out)
            assert (talked["wrong"], talked["members"]) == ([], ["o3"]), ended.err
            assert await actor_ref(f"account-of-{release}").value() == talked["count"] > 0
        assert await actor_ref("worker-1").done() == ["job"]
        assert await _heard(["tea"])


async def _heard(expected: list[str]) -> bool:
    heard = await actor_ref("account-late").heard()
    assert heard in ([], expected), "once each"
    return bool(heard == expected)


async def _drain(silo: Process) -> None:
    silo.popen.terminate()
    ended = await silo.ended(within=40)
    assert ended.status == 0, ended.err


async def _is_all_new(client: Any, version: str) -> None:
    members = await client.members()
    assert {member.name for member in members} == {"n1", "n2"}
    for member in members:
        assert (member.version, member.release, member.formats) == (version, RELEASE, dict(FORMATS))


async def test_members_of_both_releases_read_what_the_others_say_of_themselves(both: Both, cluster: Cluster) -> None:
    _, at_old = await both.silo("old", "o1", version="1")
    await both.silo("new", "n1", version="2")
    ended = await both.client("old", "all", at_old, "a").ended(within=60)
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["members"] == ["n1", "o1"]
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        members = {member.name: member for member in await client.members()}
        assert (members["o1"].release, members["o1"].formats) == ("", {})
        assert (members["n1"].release, members["n1"].formats) == (RELEASE, dict(FORMATS))


# -- the previous release itself ---------------------------------------------------------------------------------------


def test_a_clone_without_the_release_says_how_to_get_it(tmp_path: Path, previous_release: Release) -> None:
    shallow = tmp_path / "shallow"
    cloned = subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", shallow], capture_output=True, check=False
    )
    assert cloned.returncode == 0, cloned.stderr
    with pytest.raises(NotInThisClone, match=f"{previous_release.commit}, is not in .*git fetch --unshallow"):
        previous_release.unpack(tmp_path, repository=shallow)
