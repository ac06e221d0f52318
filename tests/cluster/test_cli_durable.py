"""The commands for what a cluster keeps of its actors: ``show``, ``tail``, ``parked``, ``delete``, and ``/parked``."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from actors import actor_ref, codec
from actors.envelope import Mode, Request
from actors.ports import Commit, StoreUnavailable
from actors.records import MESSAGE, PARKED, Parked, Pending, encode, number
from actors.state import FORMAT
from cluster import Silo, connect
from cluster.cli_output import as_line, in_short, one_line
from cluster.client import Client
from cluster.etcd.server import free_ports
from cluster.inspection.inspector import PAGE
from cluster.inspection.plain import plain
from cluster.inspection.room import MOST_BYTES
from cluster.store import open_store
from tests.cluster.house_actors import ACTORS
from tests.cluster.processes import ROOT, Cluster, Ended, Processes
from tests.cluster.waiting import eventually

DESK = """
import asyncio
import os
from dataclasses import dataclass, field
from datetime import timedelta

from actors import Actor, actor_ref, handler

@dataclass
class Note:
    text: str

@dataclass
class Papers:
    lines: list[str] = field(default_factory=list)

class Desk(Actor):
    state: Papers

    @handler
    async def announce(self, *items):
        for item in items:
            await self.publish(item)

    @handler
    async def announce_note(self):
        await self.publish(Note("only known to the app"))

    @handler
    async def plan(self, line):
        self.state.lines.append(line)
        await self.remind("follow_up", after=timedelta(days=3))
        await self.remind("daily", after=3600, every=86400)

    @handler
    async def write(self):
        await actor_ref("nobody-1").send({"lost": 1})

    @handler
    async def sleep(self):
        self.deactivate()

    @handler
    async def decide(self):
        await self.step("read", self._read, "it")
        await self.wait_for("approval", timeout=timedelta(days=3))

    if os.environ.get("DESK") != "without file":

        @handler
        async def file(self, what, *, gently=False):
            await self.step("read", self._read, what)
            async for _ in self.stream_step("copy", self._letters, what, channel="typed"):
                pass
            if os.environ.get("DESK") != "quick":
                await self.step("wait", asyncio.Event().wait)
            self.state.lines.append(f"filed {what}")

    async def _read(self, what):
        return {"title": what}

    async def _letters(self, what):
        for letter in what:
            yield letter

class Diary(Actor, persist="deactivation"):
    state: Papers

    @handler
    async def add(self, line):
        self.state.lines.append(line)
"""


@pytest.fixture
def desk(tmp_path: Path) -> str:
    """The path of the app."""
    (tmp_path / "desk.py").write_text(DESK)
    return "desk.py"


@pytest.fixture
async def silo() -> AsyncIterator[Silo]:
    """A silo in this process, with an HTTP port and a store in memory."""
    async with Silo(ACTORS, name="n1", http="127.0.0.1:0") as silo:
        yield silo


@pytest.fixture
async def client(silo: Silo) -> AsyncIterator[Client]:
    async with connect(silo.grpc) as client:
        yield client


async def show(client: Client, address: str) -> dict[str, Any]:
    found = await client._query("show", address)
    assert isinstance(found, dict)
    return found


async def fetch(where: str, path: str, **headers: str) -> tuple[int, str, str]:
    """The status, the head and the body of an HTTP answer."""
    host, _, port = where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in {"Host": where, **headers}.items())]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head, body


def park(
    count: int, *, message_id: str = "m", reason: str = "no reason", payload: bytes = b"\x90"
) -> dict[bytes, bytes]:
    """A parked message's row."""
    request = Request(0, "counter-1", "add", payload, Mode.SEND, 0.0, message_id)
    return {PARKED + number(1, count): encode(Parked(request, reason, 1_700_000_000.0))}


async def store_rows(silo: Silo, address: str, rows: dict[bytes, bytes], state: bytes | None = None) -> None:
    store = silo.runtime.store
    await store.open(address, 1)
    await store.commit(Commit(address=address, epoch=1, put=rows, state=state))


def ok(ended: Ended) -> str:
    assert (ended.status, ended.err) == (0, ""), ended
    return ended.out


def one_line_on_stderr(ended: Ended, *words: str, status: int) -> None:
    assert (ended.status, ended.out) == (status, ""), ended
    assert ended.err.startswith("silo: "), ended.err
    assert ended.err.count("\n") == 1, ended.err
    for word in words:
        assert word in ended.err, ended.err


# -- show --------------------------------------------------------------------------------------------------------------


async def test_show_and_tail_tell_of_a_sleeping_actor_without_waking_it(processes: Processes, desk: str) -> None:
    (ready,) = await processes.silo("n1", app=desk).ready()
    at = ("--connect", ready["grpc"])
    async with connect(ready["grpc"]) as client:
        ref = actor_ref("desk-1")
        await ref.announce("first", {"a": [1, 2]}, "\x1b[31mred\x9b")
        await ref.announce_note()
        await ref.plan("[red]x[/]")
        assert (await show(client, "desk-1"))["silo"] == "n1"
        await ref.sleep()

        async def asleep() -> bool:
            return "desk-1" not in await client.placements()

        await eventually("the desk sleeps", asleep)
        told, as_json, tail, lines, behind, typo, none = await processes.run_each(
            ("show", "desk-1", *at),
            ("show", "desk-1", "--json", *at),
            ("tail", "desk-1", "--no-follow", *at),
            ("tail", "desk-1/output", "--no-follow", "--json", *at),
            ("tail", "desk-1", "--no-follow", "--json", "--after", "1", *at),
            ("tail", "desk-1/outptu", "--no-follow", *at),
            ("show", "desk-2", *at),
        )
        assert await asleep()

    assert ok(told).splitlines()[0] == "desk-1 sleeps"
    for words in ("persist=turn", '"[red]x[/]"', "follow_up", "24h", "output"):
        assert words in told.out, told.out
    found = json.loads(ok(as_json))
    assert (found["silo"], found["type"], found["stored"]) == (None, "desk", True)
    assert found["options"]["persist"] == "turn"
    assert found["state"] == {"lines": ["[red]x[/]"]}
    assert [(row["name"], row["every"]) for row in found["reminders"]] == [("daily", 86400), ("follow_up", None)]
    assert found["channels"] == [{"name": "output", "first": 0, "next": 4}]
    assert (found["queued"], found["parked"], found["outbox"]) == ([], [], [])

    assert ok(tail).splitlines()[:2] == ['     0  "first"', '     1  {"a":[1,2]}']
    events = [json.loads(line) for line in ok(lines).splitlines()]
    assert [(event["offset"], event["kind"]) for event in events] == [(n, "item") for n in range(4)]
    assert events[2]["data"] == "\x1b[31mred\x9b"
    assert events[3]["data"].startswith("<a pickled value")
    assert all(line.isprintable() for line in (tail.out + lines.out).splitlines()), "a terminal would obey this"
    assert [json.loads(line)["offset"] for line in ok(behind).splitlines()] == [2, 3]
    assert (typo.status, typo.out) == (0, "")
    assert "no channel 'outptu'" in typo.err
    assert ok(none).splitlines()[0] == "desk-2 has nothing stored"


async def test_show_tells_where_an_actor_of_a_cluster_lives(cluster: Cluster, processes: Processes) -> None:
    n1, n2 = await cluster.start("n1", "n2")
    ((at1,), (at2,)) = (await n1.ready(), await n2.ready())
    async with connect(at1["grpc"], cluster=cluster.name) as client:
        await actor_ref("counter-n2.a").add(1)
        assert (await show(client, "counter-n2.a"))["silo"] == "n2"
    shown = await processes.run("show", "counter-n2.a", "--etcd", cluster.etcd, "--cluster", cluster.name)
    assert ok(shown).splitlines()[0] == "counter-n2.a lives on n2"
    await n2.kill()
    async with connect(at1["grpc"], cluster=cluster.name) as client:

        async def sleeps() -> bool:
            return (await show(client, "counter-n2.a"))["silo"] is None

        await eventually("its silo is given up", sleeps)
        assert (await show(client, "counter-n2.a"))["state"] == {"value": 1, "friend": None}
    assert at2["silo"] == "n2"


async def test_values_that_json_cannot_say(silo: Silo, client: Client) -> None:
    ref = actor_ref("counter-1")
    value = {1: [b"\x00\xff", float("inf")], "ref": ref}
    assert plain(codec.encode(value)) == {"1": ["AP8=", "inf"], "ref": "actor_ref('counter-1')"}
    assert plain(codec.encode({"a", "b"})) == f"<a pickled value of {len(codec.encode({'a', 'b'})) - 3} bytes>"
    assert str(plain(b"\x81")).startswith("<1 bytes that cannot be decoded")
    await store_rows(silo, "counter-1", park(1, payload=b"\xff\xff"))
    assert len((await show(client, "counter-1"))["parked"]) == 1


async def test_an_answer_has_a_limit_and_tells_what_is_left_out(silo: Silo, client: Client) -> None:
    size = MOST_BYTES // 2
    rows = {
        MESSAGE + number(1, n): encode(
            Pending(Request(0, "counter-1", "", codec.encode(["x" * 1000]), Mode.SEND, 0, f"{n}"))
        )
        for n in range(20_000)
    }
    await store_rows(silo, "counter-1", rows, FORMAT + codec.encode("x" * size))
    await store_rows(silo, "counter-2", {}, FORMAT + codec.encode("x" * (size - 100)))
    found = await show(client, "counter-1")
    assert found["state"] == {"$omitted": f"{found['state_size']} bytes"}
    assert found["cut"] is True
    assert 5_000 < len(found["queued"]) < 10_000
    assert len((await show(client, "counter-2"))["state"]) == size - 100


async def test_large_values_are_short_for_people() -> None:
    long = in_short({"text": "x" * 10_000, "list": list(range(1000)), "deep": [[[[[[[[1]]]]]]]]})
    assert len(as_line(long)) < 600
    assert "(10000 characters)" in as_line(long)
    assert "992 more" in as_line(long)
    assert in_short([1, "short", {"a": None}]) == [1, "short", {"a": None}]
    assert len(one_line(["x" * 100] * 5, 60)) == 60


# -- tail --------------------------------------------------------------------------------------------------------------


async def test_tail_follows_until_ctrl_c_and_ends_with_the_channel(
    processes: Processes, desk: str, tmp_path: Path
) -> None:
    (ready,) = await processes.silo("n1", app=desk).ready()
    at = ("--connect", ready["grpc"])
    async with connect(ready["grpc"]):
        ref = actor_ref("desk-1")
        await ref.announce("before")
        (elsewhere := tmp_path / "elsewhere").mkdir()  # where the app cannot be imported
        tails = [processes.start("tail", "desk-1", "--json", *at, cwd=elsewhere) for _ in range(2)]
        for tail in tails:
            await eventually("the past is told", lambda tail=tail: tail.out.count("\n") == 1)
        await ref.announce("live")
        await ref.announce_note()
        await ref.announce("after the note")
        for tail in tails:
            await eventually("the tail is told", lambda tail=tail: tail.out.count("\n") == 4)
        tails[0].signal(signal.SIGINT)
        stopped = await tails[0].ended()
        assert (stopped.status, stopped.err) == (130, "")
        await ref.delete()
        deleted = await tails[1].ended()
    assert (deleted.status, deleted.err) == (0, "")
    events = [json.loads(line) for line in deleted.out.splitlines()]
    assert [event["offset"] for event in events[:4]] == [0, 1, 2, 3]
    assert [event["data"] for event in events[:2]] == ["before", "live"]
    assert "pickled" in events[2]["data"]
    assert [event["kind"] for event in events] == ["item"] * 4 + ["closed"]
    assert stopped.out == "".join(f"{line}\n" for line in deleted.out.splitlines()[:4])


async def test_tail_tells_of_turns_in_words_and_with_json_as_they_are(processes: Processes, desk: str) -> None:
    (ready,) = await processes.silo("n1", app=desk, env={"DESK": "quick"}).ready()
    at = ("--connect", ready["grpc"])
    async with connect(ready["grpc"]):
        await actor_ref("desk-1").file("abc\x1b[2J")
    told, as_json = await processes.run_each(
        ("tail", "desk-1/$turns", "--no-follow", *at), ("tail", "desk-1/$turns", "--no-follow", "--json", *at)
    )
    started, committed = ok(told).splitlines()
    assert re.fullmatch(r" +0  \d\d:\d\d:\d\d\.\d{3}  started +file  \[\S+\]", started)
    assert re.fullmatch(
        r" +1  \S+  committed +file  steps read \(\S+s\) copy \(\S+s\), seconds \S+s, published typed 0-6  \[\S+\]",
        committed,
    )
    entries = [json.loads(line) for line in ok(as_json).splitlines()]
    assert [entry["data"]["event"] for entry in entries] == ["started", "committed"]
    assert entries[1]["data"]["published"] == {"typed": [[0, 7]]}


async def test_a_tail_survives_the_silo_and_a_reader_that_has_had_enough(processes: Processes, desk: str) -> None:
    (endpoint,) = (f"127.0.0.1:{port}" for port in free_ports(1))
    options = ("--store", "sqlite:///s.db", "--listen", endpoint)
    silo = processes.silo("n1", *options, app=desk)
    await silo.ready()
    tail = processes.start("tail", "desk-1", "--connect", endpoint)
    async with connect(endpoint):
        await actor_ref("desk-1").announce("one")
    await eventually("the first is told", lambda: tail.out.count("\n") == 1)
    await silo.kill()
    await processes.silo("n1", *options, app=desk).ready()
    async with connect(endpoint):
        await actor_ref("desk-1").announce("two")
        await eventually("the second is told", lambda: tail.out.count("\n") == 2)
    assert tail.out == '     0  "one"\n     1  "two"\n'
    tail.signal(signal.SIGINT)
    assert (await tail.ended()).status == 130

    command = f'set -o pipefail; "{sys.executable}" -m cluster.cli tail desk-1 --no-follow --connect {endpoint} | true'
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, err = await shell.communicate()
    assert (shell.returncode, err) == (0, b"")


async def test_show_tells_what_a_turn_waits_for_and_which_signals_wait(processes: Processes, desk: str) -> None:
    silo = processes.silo("n1", "--store", "sqlite:///s.db", app=desk)
    (ready,) = await silo.ready()
    async with connect(ready["grpc"]) as client:
        await actor_ref("desk-1").decide.send()
        await actor_ref("desk-1").signal("other", {"yes": 1})

        async def waits() -> bool:
            (queued,) = (await show(client, "desk-1"))["queued"]
            return [step["status"] for step in queued["steps"]] == ["finished", "waiting"]

        await eventually("it waits", waits)
        found = await show(client, "desk-1")
        (printed,) = await processes.run_each(("show", "desk-1", "--connect", ready["grpc"]))
    (queued,) = found["queued"]
    assert queued["adoptions"] == 0
    assert (queued["steps"][1]["name"], bool(queued["steps"][1]["until"])) == ("wait_for approval", True)
    assert [(row["name"], row["value"]) for row in found["signals"]] == [("other", {"yes": 1})]
    assert "wait_for approval" in ok(printed)
    assert '{"yes": 1}' in ok(printed) or '{"yes":1}' in ok(printed)


# -- parked ------------------------------------------------------------------------------------------------------------


async def test_a_parked_message_from_its_crash_to_its_retry(processes: Processes, desk: str) -> None:
    options = ("--store", "sqlite:///s.db")
    silo = processes.silo("n1", *options, app=desk)
    (ready,) = await silo.ready()
    async with connect(ready["grpc"]) as client:
        receipt = await actor_ref("desk-1").file.send("letter", gently=True)

        async def waits() -> bool:
            queued = (await show(client, "desk-1"))["queued"]
            return bool(queued) and [step["name"] for step in queued[0]["steps"]] == ["read", "copy"]

        await eventually("two steps are journaled", waits)
        (queued,) = (await show(client, "desk-1"))["queued"]
        await actor_ref("desk-2").write()
        (shown,) = await processes.run_each(("show", "desk-2", "--connect", ready["grpc"]))
    assert (queued["message_id"], queued["handler"], queued["adoptions"]) == (receipt.message_id, "file", 0)
    assert (queued["args"], queued["kwargs"]) == (["letter"], {"gently": True})
    read, copy = queued["steps"]
    assert (read["status"], read["function"], read["result"]) == ("finished", "Desk._read", {"title": "letter"})
    assert (copy["status"], copy["deltas"]) == ("finished", 6)
    assert "nobody-1  receive" in ok(shown)
    await silo.kill()

    silo = processes.silo("n1", *options, app=desk, env={"DESK": "without file"})
    (ready,) = await silo.ready()
    at = ("--connect", ready["grpc"])
    async with connect(ready["grpc"]) as client:

        async def is_parked() -> bool:
            return bool((await show(client, "desk-1"))["parked"])

        await eventually("it is parked", is_parked)
    table, listed, other, of_type, one, whole, unknown, shown = await processes.run_each(
        ("parked", *at),
        ("parked", "--json", *at),
        ("parked", "--type", "diary", *at),
        ("parked", "--type", "desk", "--json", *at),
        ("parked", "desk-1", receipt.message_id, *at),
        ("parked", "desk-1", receipt.message_id, "--json", *at),
        ("parked", "retry", "desk-1", "nonsense", *at),
        ("show", "desk-1", *at),
    )
    row = next(line for line in ok(table).splitlines() if line.startswith("desk-1"))
    assert receipt.message_id in row
    assert "there is no handler 'file' any more" in row
    (parked,) = json.loads(ok(listed))
    assert (parked["address"], parked["message_id"], parked["args"]) == ("desk-1", receipt.message_id, ["letter"])
    assert ok(other) == "no message is parked\n"
    assert json.loads(ok(of_type)) == [parked]
    assert 'file("letter", gently=true)' in ok(one)
    assert "Desk._letters" in one.out
    assert json.loads(ok(whole)) == {**parked, "steps": queued["steps"]}
    one_line_on_stderr(unknown, "desk-1: no message 'nonsense' is parked", status=1)
    assert "parked messages" in ok(shown)
    await silo.kill()

    (ready,) = await processes.silo("n1", *options, app=desk, env={"DESK": "quick"}).ready()
    at = ("--connect", ready["grpc"])
    retried, gone = await processes.run_each(
        ("parked", "retry", "desk-1", receipt.message_id, "--json", *at),
        ("parked", "drop", "desk-1", receipt.message_id, *at),
    )
    assert json.loads(ok(retried)) == {"address": "desk-1", "message_id": receipt.message_id, "action": "retry"}
    one_line_on_stderr(gone, "no message", status=1)
    async with connect(ready["grpc"]) as client:

        async def filed() -> bool:
            state = (await show(client, "desk-1"))["state"]
            return bool(state) and state["lines"] == ["filed letter"]

        await eventually("it has run", filed)


async def test_skip_and_drop_and_many(processes: Processes, tmp_path: Path) -> None:
    count = PAGE * 2 + 5
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    for n in range(count):
        await store.open(f"counter-{n:03}", 1)
        await store.commit(Commit(address=f"counter-{n:03}", epoch=1, put=park(1, message_id=f"m{n}")))
    await store.open("diary-1", 1)
    await store.commit(Commit(address="diary-1", epoch=1, put=park(1, message_id="other", reason="one\ntwo")))
    await store.close()
    (ready,) = await processes.silo("n1", "--store", "sqlite:///s.db").ready()
    at = ("--connect", ready["grpc"])
    skipped, dropped, listed, of_type, table, one = await processes.run_each(
        ("parked", "skip", "counter-000", "m0", *at),
        ("parked", "drop", "counter-001", "m1", *at),
        ("parked", "--json", *at),
        ("parked", "--type", "diary", "--json", *at),
        ("parked", "diary-1", *at),
        ("parked", "diary-1", "other", *at),
    )
    assert "is settled as failed" in ok(skipped)
    assert "is forgotten" in ok(dropped)
    rows = json.loads(ok(listed))
    assert [row["message_id"] for row in rows] == [f"m{n}" for n in range(2, count)] + ["other"]
    assert [row["reason"] for row in json.loads(ok(of_type))] == ["one\ntwo"]
    assert "one" in ok(table)
    assert "two" not in table.out
    assert "one\n          two" in ok(one)


# -- delete ------------------------------------------------------------------------------------------------------------


async def answer(*words: str, typed: bytes | None) -> tuple[int, str]:
    """Run a command on a terminal and type something, or press Ctrl-C; its status and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", *words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT
    )
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += await asyncio.to_thread(os.read, ours, 1000)
    if typed is None:
        process.send_signal(signal.SIGINT)
    else:
        os.write(ours, typed)
    status = await process.wait()
    with contextlib.suppress(OSError):  # the terminal's other side is gone
        while more := os.read(ours, 1000):
            shown += more
    os.close(ours)
    return status, shown.decode()


async def test_delete_asks_on_a_terminal(silo: Silo, client: Client) -> None:
    await actor_ref("counter-1").add(1)
    command = ("delete", "counter-1", "--connect", silo.grpc)
    status, shown = await answer(*command, typed=b"\n")
    assert status == 1
    assert "nothing was deleted" in shown
    status, shown = await answer(*command, typed=None)
    assert status == 130
    assert (await show(client, "counter-1"))["state"]["value"] == 1
    status, shown = await answer(*command, typed=b"y\n")
    assert status == 0
    assert "counter-1 is deleted" in shown
    assert (await show(client, "counter-1"))["stored"] is False


async def test_delete_elsewhere_wants_yes(silo: Silo, client: Client, processes: Processes) -> None:
    await actor_ref("counter-1").add(1)
    await actor_ref("diary-1").add(1)
    at = ("--connect", silo.grpc)
    refused, deleted, again, diary = await processes.run_each(
        ("delete", "counter-1", *at),
        ("delete", "counter-1", "--yes", "--json", *at),
        ("delete", "counter-2", "-y", *at),
        ("delete", "diary-1", "-y", *at),
    )
    one_line_on_stderr(refused, "--yes", status=2)
    assert json.loads(ok(deleted)) == {"address": "counter-1", "deleted": True}
    assert ok(again) == "nothing was stored of counter-2\n"
    assert "counter-2" not in await client.placements(), "nothing to delete: it was not woken"
    one_line_on_stderr(diary, 'persist="turn"', status=1)


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_what_is_refused(silo: Silo, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ("--connect", silo.grpc)
    commands: dict[str, tuple[list[str], int, str]] = {
        "unknown type": (["show", "tale-1", *at], 1, "UnknownActorType: tale-1"),
        "tail of an unknown type": (["tail", "tale-1", *at], 1, "UnknownActorType: tale-1"),
        "delete of an unknown type": (["delete", "tale-1", "-y", *at], 1, "UnknownActorType: tale-1"),
        "malformed address": (["show", "counter"], 2, "malformed address 'counter'"),
        "malformed address to tail": (["tail", "counter"], 2, "malformed address 'counter'"),
        "malformed channel": (["tail", "counter-1/a/b"], 2, "channel"),
        "malformed address to delete": (["delete", "counter", "-y"], 2, "malformed address 'counter'"),
        "malformed address to parked": (["parked", "counter"], 2, "malformed address 'counter'"),
        "half a decision": (["parked", "retry", "counter-1"], 2, "retry|skip|drop ADDR MESSAGE_ID"),
        "an unknown decision": (["parked", "replay", "counter-1", "m"], 2, "retry|skip|drop ADDR MESSAGE_ID"),
        "no such message": (["parked", "counter-1", "m", *at], 1, "no message 'm' is parked"),
        "nothing to retry": (["parked", "retry", "counter-1", "m", *at], 1, "no message 'm' is parked"),
        "tail of what has no channels": (["tail", "diary-1", *at], 1, 'persist="turn"'),
        "nobody there": (["show", "counter-1", "--connect", f"127.0.0.1:{free_ports(1)[0]}"], 3, "cannot connect"),
    }
    problems = []
    ended = await processes.run_each(*(words for words, _, _ in commands.values()))
    for (what, (_, status, said)), end in zip(commands.items(), ended, strict=True):
        try:
            one_line_on_stderr(end, said, status=status)
        except AssertionError as error:
            problems.append(f"--- {what}: {error}")
    assert not problems, "\n".join(problems)


async def test_a_store_that_is_away(silo: Silo, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("the disk is gone")

    for name in ("read", "state", "flagged"):
        monkeypatch.setattr(silo.runtime.store, name, away)
    at = ("--connect", silo.grpc)
    for ended in await processes.run_each(
        ("show", "counter-1", *at), ("tail", "counter-1", *at), ("parked", *at), ("delete", "counter-1", "-y", *at)
    ):
        one_line_on_stderr(ended, "the disk is gone", status=3)
    assert silo.http is not None
    status, head, body = await fetch(silo.http, "/parked")
    assert (status, json.loads(body)["type"]) == (503, "ClusterUnavailable")
    assert "application/problem+json" in head


# -- the page ----------------------------------------------------------------------------------------------------------


async def test_the_page_lists_what_is_parked_and_escapes_it(silo: Silo) -> None:
    assert silo.http is not None
    assert "No message is parked" in (await fetch(silo.http, "/parked"))[2]
    evil = "<script>alert('reason')</script>"
    payload = codec.encode(["<img src=x onerror=alert(1)>"])
    await store_rows(silo, "counter-<b>", park(1, message_id='"><i>', reason=f"{evil}\nsecond line", payload=payload))
    status, head, body = await fetch(silo.http, "/parked", Accept="text/html,*/*;q=0.8")
    assert status == 200
    assert "content-type: text/html" in head
    assert "content-security-policy: default-src 'none'" in head
    for words in (evil, "counter-<b>", '"><i>', "<img src=x"):
        assert words not in body
        assert words in unescape(body)
    status, head, body = await fetch(silo.http, "/parked", Accept="application/json")
    assert (status, "content-type: application/json" in head) == (200, True)
    found = json.loads(body)
    assert found["next"] is None
    (row,) = found["parked"]
    assert (row["address"], row["message_id"]) == ("counter-<b>", '"><i>')
    assert row["reason"] == f"{evil}\nsecond line"


async def test_the_page_goes_on_on_the_next_one(silo: Silo) -> None:
    assert silo.http is not None
    await store_rows(silo, "counter-1", {k: v for n in range(PAGE + 1) for k, v in park(n, message_id=f"m{n}").items()})
    await store_rows(silo, "desk-1", park(1, message_id="of another type"))
    seen, path = [], "/parked?type=counter"
    while path is not None:
        _, _, body = await fetch(silo.http, path, Accept="application/json")
        seen += [row["message_id"] for row in json.loads(body)["parked"]]
        path = json.loads(body)["next"]
    assert seen == [f"m{n}" for n in range(PAGE + 1)]
    assert 'href="/parked?type=counter&amp;after=' in (await fetch(silo.http, "/parked?type=counter"))[2]
    assert (await fetch(silo.http, "/parked?after=counter-1/nonsense"))[0] == 400


async def test_the_page_is_for_this_machine_only(silo: Silo) -> None:
    assert silo.http is not None
    port = silo.http.rpartition(":")[2]
    assert (await fetch(silo.http, "/parked", Host=f"localhost:{port}"))[0] == 200
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1"):
        status, head, body = await fetch(silo.http, "/parked", Host=name)
        assert (status, json.loads(body)["type"]) == (403, "NotAuthorized"), name
        assert "application/problem+json" in head
        assert "silo parked" in json.loads(body)["detail"]
    async with Silo(ACTORS, name="n2", http="0.0.0.0:0", insecure=True) as open_to_all:
        assert open_to_all.http is not None
        where = f"127.0.0.1:{open_to_all.http.rpartition(':')[2]}"
        assert (await fetch(where, "/parked"))[0] == 403
        assert (await fetch(where, "/healthz"))[0] == 200
