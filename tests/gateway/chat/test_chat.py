"""The configuration of chats: what it says, and what of it cannot work."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors import Actor, handler
from actors.runtime import actor_types
from cluster import Silo
from cluster.gateway import Chat, GatewayOptions
from cluster.gateway.chat.message import share_of
from tests.cluster.processes import Processes
from tests.gateway.http_client import Gateway

APP = "tests.gateway.chat.chat_actors"


class Session(Actor):
    @handler(public=True)
    async def write(self, text: str) -> str:
        return text

    @handler(public=True)
    async def untyped(self, message: Any) -> Any:
        return message

    @handler(public=True)
    async def either(self, text: str, tone: str = "kind") -> str:
        return text

    @handler(public=True)
    async def message(self, message: dict[str, Any]) -> None: ...

    @handler(public=True)
    async def messages(self, messages: list[Any]) -> None: ...

    @handler
    async def private(self, text: str) -> None: ...

    @handler(public=True, readonly=True)
    async def peek(self, text: str) -> None: ...

    @handler(public=True, control=True)
    async def hurry(self, text: str) -> None: ...

    @handler(public=True)
    async def tokens(self, text: str) -> AsyncIterator[str]:
        yield text

    @handler(public=True)
    async def nothing(self) -> None: ...

    @handler(public=True)
    async def two(self, one: str, other: str) -> None: ...


class Passing(Session, type="passing", persist="never"):
    pass


TYPES = actor_types([Session, Passing])


def test_a_chat_is_one_line_of_configuration() -> None:
    chat = Chat.parse("ai-sdk:/api/chat=session.write")
    assert chat == Chat("/api/chat", "session", "write", "ai-sdk", "output")
    assert Chat.parse(" ag-ui:/a=session.receive/notes") == Chat("/a", "session", "receive", "ag-ui", "notes")
    for one in (chat, Chat("/a-b/c.d", "session", "write", "ag-ui", "more")):
        assert Chat.parse(str(one)) == one


def test_chats_come_from_the_environment_and_go_there() -> None:
    text = "ai-sdk:/api/chat=session.write, ag-ui:/agui=session.write\nai-sdk:/x=other.receive"
    options = GatewayOptions.from_environment({"SILO_CHAT": text})
    assert [chat.path for chat in options.chats] == ["/api/chat", "/agui", "/x"]
    assert GatewayOptions.from_environment(options.to_environment()) == options
    assert GatewayOptions.from_environment({"SILO_CHAT": ""}).chats == ()
    with pytest.raises(ValueError, match="SILO_CHAT.*must be"):
        GatewayOptions.from_environment({"SILO_CHAT": "session.write"})


@pytest.mark.parametrize(
    "text",
    ["", "x", "ai-sdk:/api", "ai-sdk:/api=session", "other:/api=session.write", "ai-sdk:api=session.write",
     "ai-sdk:/=session.write", "ai-sdk:/api/=session.write", "ai-sdk:/a//b=session.write", "ai-sdk:/a/..=session.write",
     "ai-sdk:/a?b=session.write", "ai-sdk:/v1/chat=session.write", "ai-sdk:/readyz=session.write",
     "ai-sdk:/api=Session.write", "ai-sdk:/api=session.a-b", "ai-sdk:/api=session.write/a/b",
     "ai-sdk:/api=session.write/$turns"],
)  # fmt: skip
def test_what_is_no_chat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="chat|type"):
        Chat.parse(text)


@pytest.mark.parametrize(("one", "other"), [("/api", "/api"), ("/api", "/api/chat"), ("/api/chat", "/api")])
def test_no_chat_hides_another(one: str, other: str) -> None:
    with pytest.raises(ValueError, match="two chats"):
        GatewayOptions(chats=(Chat(one, "a"), Chat(other, "b")))
    assert GatewayOptions(chats=(Chat("/api", "a"), Chat("/api2", "a"))).chats


@pytest.mark.parametrize(
    ("name", "share"),
    [("write", "text"), ("untyped", "text"), ("either", "text"), ("message", "message"), ("messages", "messages")],
)
def test_the_signature_says_what_the_handler_gets(name: str, share: str) -> None:
    assert share_of(Chat("/x", "session", name), TYPES) == share


@pytest.mark.parametrize(
    ("chat", "problem"),
    [
        (Chat("/x", "other", "write"), "hosts no actor type 'other'"),
        (Chat("/x", "session", "wrote"), r"no such handler \(handlers: either, hurry,"),
        (Chat("/x", "session", "private"), "public=True"),
        (Chat("/x", "session", "receive"), "public=True"),
        (Chat("/x", "session", "peek"), "readonly or control"),
        (Chat("/x", "session", "hurry"), "readonly or control"),
        (Chat("/x", "session", "tokens"), "generator"),
        (Chat("/x", "session", "nothing"), "one argument"),
        (Chat("/x", "session", "two"), "one argument"),
        (Chat("/x", "passing", "write"), 'persist="turn"'),
    ],
)
async def test_a_silo_refuses_to_start_with_a_chat_that_cannot_work(chat: Chat, problem: str) -> None:
    silo = Silo([Session, Passing], http="127.0.0.1:0", gateway=GatewayOptions(chats=(chat,)))
    with pytest.raises(ValueError, match=problem):
        await silo.start()


async def test_chats_are_options_of_the_command_and_keys_of_its_file(processes: Processes, tmp_path: Path) -> None:
    chats = ["ai-sdk:/one=session.write", "ag-ui:/two=session.write"]
    config = tmp_path / "silo.toml"
    config.write_text(f"chat = {chats}\n")
    env = {"TEST_FOLDER": str(tmp_path)}
    options = [word for chat in chats for word in ("--chat", chat)]
    silos = [processes.silo("a", *options, app=APP, env=env), processes.silo("b", "--config", config, app=APP, env=env)]
    for silo in silos:
        gateway = Gateway((await silo.ready())[0]["http"])
        assert (await gateway("GET", "/one/x/stream")).status == 204
        assert (await gateway("GET", "/two?threadId=x")).status == 200
    ended = await processes.run("start", APP, "--http", "127.0.0.1:0", "--chat", "ai-sdk:/one=session.read", env=env)
    assert ended.status == 2
    assert "there is no such handler" in ended.err
