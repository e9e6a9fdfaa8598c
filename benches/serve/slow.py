"""Clients that are slow or silent, while others go on: a head or a body at a byte per second, a reader of a byte per second, a
connection that says nothing.

    wgpt serve --model MODEL --slots 8 --port 8000 &
    python benches/serve/slow.py

Only Python's own library is needed. Exit code 1 if an ordinary request failed, or a sequence is left at the end.
"""

import argparse
import json
import socket
import sys
import threading
import time
import urllib.request
from collections import Counter

# Longer than all time limits of heads and bodies.
SECONDS = 35


def request(port, tokens, streams):
    body = json.dumps({"prompt": "Once", "max_tokens": tokens, "stream": streams}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


def drip(port, data, at_once):
    """Sends the first bytes at once and the others one per second; returns what comes back, and after how many seconds."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as to:
        try:
            to.sendall(data[:at_once])
            for i in range(at_once, at_once + SECONDS):
                to.settimeout(1)
                try:
                    said = to.recv(64)
                    return said.split(b"\r")[0].decode() or "cut", round(time.monotonic() - begin)
                except TimeoutError:
                    to.sendall(data[i : i + 1])
        except OSError as error:
            return type(error).__name__, round(time.monotonic() - begin)
    return "still open", SECONDS


def read_slowly(port):
    head, body = request(port, 200, True)
    with socket.create_connection(("127.0.0.1", port)) as to:
        to.sendall(head + body)
        return "read", sum(len(to.recv(1)) for _ in range(SECONDS) if time.sleep(1) is None)


def ask(port, path, body=None):
    headers = {"Content-Type": "application/json"}
    whole = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    with urllib.request.urlopen(whole, timeout=30) as answer:
        return answer.read().decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    head, body = request(port, 200, True)
    kinds = {
        "head": (10, lambda: drip(port, head + body, 10)),
        "body": (5, lambda: drip(port, head + body, len(head) + 5)),
        "silence": (5, lambda: drip(port, b"", 0)),
        "reader": (12, lambda: read_slowly(port)),
    }
    found = Counter()
    run = lambda kind, client: found.update([(kind, *client())])  # noqa: E731
    threads = [threading.Thread(target=run, args=(kind, one)) for kind, (n, one) in kinds.items() for _ in range(n)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    for _ in range(20):
        begin = time.monotonic()
        ask(port, "/v1/completions", request(port, 5, False)[1])
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(1)
    for thread in threads:
        thread.join()
    time.sleep(2)
    metrics = dict(line.rsplit(" ", 1) for line in ask(port, "/metrics").splitlines() if not line.startswith("#"))
    left = float(metrics["wgpt_running_sequences"]) + float(metrics["wgpt_waiting_requests"])
    for (kind, outcome, seconds), count in sorted(found.items()):
        print(f"{count} x {kind}: {outcome}, {seconds}")
    print(f"ordinary requests: the slowest took {slowest:.2f} s; left at the end: {left:.0f}")
    sys.exit(left > 0)


main()
