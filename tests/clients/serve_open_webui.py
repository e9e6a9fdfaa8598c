"""What Open WebUI asks an OpenAI connection for, against `wgpt serve`. The program itself is too large to install here; these are
its requests, as its sources make them: the list of models when the connection is checked, a chat that is streamed with fields of
its own, then a title, tags and follow-up questions for it, whole; and a reply that is stopped.

    python serve_open_webui.py http://127.0.0.1:8000/v1
"""

import asyncio
import json
import sys

try:
    import aiohttp
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)

# Any key is sent, and what is told of the user where that is asked for.
HEADERS = {
    "Authorization": "Bearer none",
    "X-OpenWebUI-User-Name": "Ada%20L",
    "X-OpenWebUI-User-Id": "5d1c6c9e",
    "X-OpenWebUI-User-Email": "ada@example.com",
    "X-OpenWebUI-User-Role": "user",
}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
]


async def models(session, base):
    async with session.get(f"{base}/models", headers=HEADERS) as answer:
        assert answer.status == 200, await answer.text()
        listed = await answer.json()
    assert listed["object"] == "list" and listed["data"], listed
    assert all(isinstance(model["id"], str) and model["object"] == "model" for model in listed["data"]), listed
    return listed["data"][0]["id"]


async def stream(session, base, body):
    """Yields the chunks of a reply."""
    async with session.post(f"{base}/chat/completions", json=body, headers=HEADERS) as answer:
        assert answer.status == 200, await answer.text()
        # This is how the program tells a stream from a whole reply.
        assert "text/event-stream" in answer.headers["Content-Type"], answer.headers
        async for line in answer.content:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


async def chat(session, base, model):
    body = {
        "model": model,
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.8,
        "top_p": 0.9,
        "max_tokens": 20,
        "seed": 5,
        "stop": ["\n\n\n"],
        "frequency_penalty": 0,
        "metadata": {"chat_id": "1", "message_id": "2"},
        "user": "ada",
    }
    text, used = "", None
    async for chunk in stream(session, base, body):
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
        used = chunk.get("usage") or used
    assert text and used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"], (text, used)
    return text


async def tasks(session, base, model, reply):
    """A title, tags and follow-up questions are asked for as whole replies to one long message."""
    for task in ["a title", "tags", "three questions"]:
        ask = f"### Task:\nWrite {task} as JSON.\n### Chat:\nUSER: Who are you?\nASSISTANT: {reply}"
        body = {"model": model, "messages": [{"role": "user", "content": ask}], "stream": False, "max_tokens": 8}
        async with session.post(f"{base}/chat/completions", json=body, headers=HEADERS) as answer:
            said = await answer.json()
            assert answer.status == 200, said
        assert isinstance(said["choices"][0]["message"]["content"], str), said


async def stopped(session, base, model):
    """The user stops a reply: the connection is closed, and the next reply comes."""
    body = {"model": model, "messages": MESSAGES, "stream": True}
    async for _ in stream(session, base, body):
        break
    return await chat(session, base, model)


async def main():
    base = sys.argv[1]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        model = await models(session, base)
        reply = await chat(session, base, model)
        assert reply == await stopped(session, base, model), "the same seed gives the same reply"
        await tasks(session, base, model, reply[:20])
    print("what Open WebUI asks for is answered")


asyncio.run(main())
