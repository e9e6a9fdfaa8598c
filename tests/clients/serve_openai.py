"""The `openai` package against `wgpt serve`: completions, chats, streams, several choices, log-probabilities, errors.

    python serve_openai.py http://127.0.0.1:8000/v1
"""

import sys

try:
    import openai
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)


def refused(kind, call):
    """Returns the error of a call that must be refused."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


def completions(client, model):
    asked = dict(model=model, prompt="Once upon a time", max_tokens=20, seed=1)
    one = client.completions.create(**asked)
    again = client.completions.create(**asked)
    assert one.choices[0].text == again.choices[0].text
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    assert one.choices[0].finish_reason in ("stop", "length")

    several = client.completions.create(**asked, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.choices[0].text == one.choices[0].text
    assert len({choice.text for choice in several.choices}) == 3

    stream = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == one.choices[0].text
    assert chunks[-1].usage == one.usage and not chunks[-1].choices

    scored = client.completions.create(**{**asked, "max_tokens": 5}, logprobs=3, temperature=0, echo=True)
    logprobs = scored.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert len(logprobs.tokens) == len(logprobs.text_offset) == scored.usage.total_tokens
    for token, logprob, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
        assert top[token] == logprob <= max(top.values()) <= 0


def chats(client, model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    asked = dict(model=model, messages=messages, max_completion_tokens=20, seed=2)
    one = client.chat.completions.create(**asked)
    assert one.choices[0].message.role == "assistant"
    stream = client.chat.completions.create(**asked, stream=True)
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == one.choices[0].message.content
    scored = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, temperature=0)
    for token in scored.choices[0].logprobs.content:
        assert token.logprob == token.top_logprobs[0].logprob and len(token.top_logprobs) == 2
        assert bytes(token.bytes).decode(errors="replace").startswith(token.token[:1]) or "bytes:" in token.token


def errors(client, model):
    ask = client.completions.create
    error = refused(openai.NotFoundError, lambda: ask(model="gpt-5", prompt="a"))
    assert error.code == "model_not_found", error
    error = refused(openai.BadRequestError, lambda: ask(model=model, prompt="a", temperature="hot"))
    assert error.param == "temperature" and "must be a number" in error.message, error
    error = refused(openai.BadRequestError, lambda: ask(model=model, prompt=[1] * 100_000))
    assert error.code == "context_length_exceeded" and "100000" in error.message, error
    tools = [{"type": "function", "function": {"name": "f"}}]
    chat = client.chat.completions.create
    error = refused(
        openai.BadRequestError,
        lambda: chat(model=model, messages=[{"role": "user", "content": "a"}], tools=tools),
    )
    assert error.param == "tools", error


def main():
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    for check in (completions, chats, errors):
        check(client, model)
        print(f"{check.__name__}: well")


main()
