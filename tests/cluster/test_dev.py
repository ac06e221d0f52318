"""``silo dev``: one silo that follows its app."""

import signal
from pathlib import Path

from actors import actor_ref
from cluster import connect
from tests.cluster.processes import Process, Processes, children_of, gone

STORY = """
from dataclasses import dataclass
from actors import Actor

@dataclass
class Pages:
    count: int = 0

class Story(Actor):
    state: Pages

    async def receive(self, message):
        self.state.count += 1
        return [{answer!r}, self.state.count]
"""


async def tell(process: Process, ready_lines: int) -> object:
    grpc = (await process.ready(ready_lines))[-1]["grpc"]
    async with connect(grpc):
        return await actor_ref("story-1").options(timeout=5).ask("go on")


async def test_it_restarts_on_a_change_and_recovers_from_a_broken_app(processes: Processes, tmp_path: Path) -> None:
    story = tmp_path / "app" / "story.py"
    story.parent.mkdir()
    story.write_text(STORY.format(answer="once"))
    dev = processes.start("dev", "app/story.py", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert await tell(dev, 1) == ["once", 1]

    story.write_text(STORY.format(answer="twice"))
    assert await tell(dev, 2) == ["twice", 2]
    assert "story.py changed; restarting" in dev.err

    story.write_text("class Story(\n")
    await dev.said("the app app/story.py does not import")
    assert "SyntaxError" in dev.err
    assert dev.running

    story.write_text(STORY.format(answer="again"))
    assert await tell(dev, 3) == ["again", 3]

    (child,) = children_of(dev.pid)
    dev.signal(signal.SIGINT)
    ended = await dev.ended(within=10)
    assert ended.status == 130
    assert ended.out.count("\n") == 3
    await gone(child, within=1)


async def test_it_is_a_cluster_of_its_own_whatever_the_environment_says(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "story.py").write_text(STORY.format(answer="alone"))
    (tmp_path / "dev.toml").write_text('reload = true\napps = ["story.py"]\n')
    dev = processes.start(
        "dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
        env={"SILO_ETCD": "http://127.0.0.1:1", "SILO_CONFIG": "dev.toml"},
    )  # fmt: skip
    assert await tell(dev, 1) == ["alone", 1]
    children = children_of(dev.pid)
    await dev.kill()
    await gone(*children)


async def test_without_reload_it_is_one_process(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "story.py").write_text(STORY.format(answer="still"))
    dev = processes.start("dev", "story.py", "--no-reload", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert await tell(dev, 1) == ["still", 1]
    assert children_of(dev.pid) == []
    dev.signal(signal.SIGTERM)
    assert (await dev.ended(within=10)).status == 0


async def test_an_app_that_never_imported_ends_it(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    ended = await processes.start("dev", "broken.py", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0").ended()
    assert ended.status == 2
    assert "ZeroDivisionError" in ended.err
