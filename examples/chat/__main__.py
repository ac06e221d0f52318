"""``python -m examples.chat``: three silos, a language model and a page. Kill a silo: the page does not mind."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from cluster.local_cluster import LocalCluster
from examples.chat.balancer import balanced
from examples.local_model import model_in_environment

PAGES = Path(__file__).parent / "pages"


async def run(*, port: int, data: Path) -> None:
    """Serve until cancelled."""
    print("Starting the language model (the first time its weights are unpacked), etcd and three silos ...", flush=True)
    os.environ["SILO_PAGES"] = str(PAGES)
    options = ["--log-level", "error"]
    async with (
        model_in_environment() as model,
        LocalCluster(["examples.chat.story"], silos=3, directory=data, options=options) as cluster,
        balanced([silo.http for silo in cluster.silos if silo.http is not None], port=port) as address,
    ):
        print(f"The model is {model.model} at {model.url}.")
        print("The silos are", ", ".join(f"{silo.name} (pid {silo.pid})" for silo in cluster.silos) + "; kill one.")
        print(f"Look around with `silo actors --etcd {cluster.etcd}`, and the like.")
        print(f"Open http://{address}/ in as many tabs as you like. Ctrl-C ends it.", flush=True)
        await asyncio.Event().wait()


async def run_until_signal(*, port: int, data: Path) -> None:
    """Like ``run``; SIGTERM ends it in good order, as Ctrl-C does."""
    running = asyncio.create_task(run(port=port, data=data))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


def main() -> None:
    """Entry point of ``python -m examples.chat``."""
    parser = argparse.ArgumentParser(prog="python -m examples.chat", description=__doc__)
    parser.add_argument("--port", type=int, default=7480, help="port on 127.0.0.1; 0 takes a free one (default 7480)")
    parser.add_argument("--data", type=Path, default=Path(".silo/chat"), help="folder of etcd and the stories")
    options = parser.parse_args()
    try:
        asyncio.run(run_until_signal(port=options.port, data=options.data))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"port {options.port} cannot be used ({error.strerror}): choose another one with --port")
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
