"""A client as a process of its own, so that it can be of either release: ``all|load ENDPOINT KEY``.

``all`` does once what clients do; ``load`` calls until the file ``stop`` is there. Both print what came of it as one
line of JSON. The endpoint is that of a silo, or of etcd if it begins with ``http:``.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import actors
from actors import ActorError, ActorFailed, actor_ref
from cluster import connect


async def talk(key: str) -> dict[str, Any]:
    account = actor_ref(f"account-{key}")
    found: dict[str, Any] = {"ask": await account.add(2)}
    await account.add.send(3)
    found["after a send"] = await account.value()
    found["stream"] = [number async for number in account.count.stream(4)]
    found["channel"] = []
    async for event in account.channel("output").subscribe():
        found["channel"].append([event.offset, event.kind, event.data])
        if event.offset == 1:
            break
    found["rest of it"] = []
    async for event in account.channel("output").subscribe(after=0):
        found["rest of it"].append(event.data)
        break
    found["pickled"] = sorted(await account.same({3, 1}))
    found["large"] = len(await account.same("x" * 2_000_000))
    keyed = account.options(idempotency_key="k1")
    found["keyed"] = [await keyed.add(10), await keyed.add(10)]
    calls = {
        "no handler": account.missing(),
        "no type": actor_ref("nobody-1").add(1),
        "a used key": keyed.add(11),
        "a wrong argument": account.add("many"),
        "too late": actor_ref(f"worker-{key}").options(timeout=0.5).work("never"),
    }
    found["errors"] = {name: await error_of(call) for name, call in calls.items()}
    try:
        await account.fail()
    except ActorFailed as error:
        found["failed"] = [error.type_name.rpartition(".")[2], error.message]
    await account.interrupt("for nothing")
    await account.delete()
    found["deleted"] = await account.value()
    return found


async def error_of(call: Any) -> str:
    try:
        return f"answered {await call!r}"
    except ActorError as error:
        return type(error).__name__


async def load(key: str) -> dict[str, Any]:
    """One call after the other, each of which must be the next."""
    account = actor_ref(f"account-{key}")
    stop = Path(os.environ["TEST_FOLDER"]) / "stop"
    count, wrong = 0, []
    while not stop.exists():
        count += 1
        try:
            got = await account.add(1)
        except ActorError as error:
            wrong.append(f"{count}: {error!r}")
            break
        if got != count:
            wrong.append(f"{count}: got {got}")
            break
    return {"count": count, "wrong": wrong}


async def main(what: str, endpoint: str, key: str) -> None:
    silo, etcd = (None, endpoint) if endpoint.startswith("http:") else (endpoint, None)
    async with connect(silo, etcd=etcd, cluster=os.environ["TEST_CLUSTER"]) as client:
        found = await (talk if what == "all" else load)(key)
        found["members"] = sorted(member.name for member in await client.members())
    found["from"] = str(Path(actors.__file__).parents[1])
    sys.stdout.write(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
