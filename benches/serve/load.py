"""Many clients on a server of this machine: throughput, time to first token, errors, and whether its memory grows.

    wgpt serve --model MODEL --port 8000 &
    python benches/serve/load.py --pid $! --clients 64 --seconds 60

Each client streams one completion after the other, of a prompt of --prompt tokens with a beginning that all share and an
end of its own. Only Python's own library is needed. Any server that knows OpenAI's API can be measured (--url).
Exit code 1 if a request failed.
"""

import argparse
import asyncio
import json
import random
import time
from urllib.parse import urlparse

WORDS = "once upon a time there was little girl who liked to play in the park with her dog and a red ball".split()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1/completions")
    parser.add_argument("--model", help="the name of the model, where the server needs one")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--prompt", type=int, default=64, help="words of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each completion")
    parser.add_argument("--pid", type=int, help="the server's process, whose memory is looked at")
    return parser.parse_args()


def memory_mib(pid):
    if pid is None:
        return None
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


async def complete(url, body):
    """Streams a completion; returns the seconds until its first token, and the number of tokens."""
    began, first, pieces, usage = time.perf_counter(), None, 0, None
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        data = json.dumps(body).encode()
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.hostname}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        status = (await reader.readline()).split()[1]
        if status != b"200":
            raise RuntimeError(f"status {status.decode()}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                first = first or time.perf_counter() - began
                pieces += 1
                usage = event.get("usage") or usage
            if line.startswith(b"data: [DONE]"):
                return first, usage["completion_tokens"] if usage else pieces
        raise RuntimeError("the stream broke off")
    finally:
        writer.close()


async def client(number, asked, end, found):
    draw = random.Random(number)
    common = " ".join(random.Random(0).choices(WORDS, k=asked.prompt // 2))
    while time.perf_counter() < end:
        own = " ".join(draw.choices(WORDS, k=asked.prompt - asked.prompt // 2))
        body = {"prompt": f"{common} {own}", "max_tokens": asked.tokens, "temperature": 0.8, "stream": True}
        body |= {"seed": draw.randrange(1 << 30), "stream_options": {"include_usage": True}}
        body |= {"model": asked.model} if asked.model else {}
        try:
            found["done"].append(await complete(urlparse(asked.url), body))
        except (RuntimeError, OSError) as error:
            found["failed"].append(str(error))


async def main():
    asked = arguments()
    found = {"done": [], "failed": []}
    warm = time.perf_counter() + min(3.0, asked.seconds / 4)
    await asyncio.gather(*(client(i, asked, warm, {"done": [], "failed": []}) for i in range(asked.clients)))
    before, began = memory_mib(asked.pid), time.perf_counter()
    end = began + asked.seconds
    await asyncio.gather(*(client(i, asked, end, found) for i in range(asked.clients)))
    seconds = time.perf_counter() - began
    firsts = sorted(first for first, _ in found["done"] if first)
    tokens = sum(tokens for _, tokens in found["done"])
    at = lambda share: round(1000 * firsts[min(len(firsts) - 1, int(share * len(firsts)))], 1) if firsts else None  # noqa: E731
    print(json.dumps({
        "clients": asked.clients,
        "completions": len(found["done"]),
        "failed": len(found["failed"]),
        "tokens_per_s": round(tokens / seconds, 1),
        "first_token_ms": {"p50": at(0.5), "p99": at(0.99)},
        "memory_mib": {"after_warm_up": before, "at_the_end": memory_mib(asked.pid)},
        "first_failure": found["failed"][:1],
    }))
    raise SystemExit(bool(found["failed"]))


asyncio.run(main())
