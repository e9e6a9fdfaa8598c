"""The `langchain-openai` package against `wgpt serve`: a chat model and a completion model, whole, streamed, in batches, with
log-probabilities, and its errors.

    python serve_langchain.py http://127.0.0.1:8000/v1
"""

import json
import sys
import urllib.request

try:
    import openai
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI, OpenAI
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)

MESSAGES = [
    SystemMessage("Be brief."),
    HumanMessage("Who are you?"),
    AIMessage("A model."),
    HumanMessage("What do you like?"),
]


def chats(settings):
    chat = ChatOpenAI(**settings, temperature=0.7, seed=3, max_completion_tokens=12)
    whole = chat.invoke(MESSAGES)
    used = whole.usage_metadata
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"], used
    assert whole.response_metadata["finish_reason"] in ("stop", "length"), whole.response_metadata
    pieces = list(chat.stream(MESSAGES, stream_usage=True))
    assert "".join(piece.content for piece in pieces) == whole.content, (pieces, whole)
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == used["output_tokens"]
    questions = [[HumanMessage(f"{n} and {n}?")] for n in range(5)]
    together = [answer.content for answer in chat.batch(questions, config={"max_concurrency": 5})]
    assert together == [chat.invoke(question).content for question in questions], together
    scored = ChatOpenAI(**settings, temperature=0, max_completion_tokens=5, logprobs=True, top_logprobs=3)
    for token in scored.invoke(MESSAGES).response_metadata["logprobs"]["content"]:
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] and len(token["top_logprobs"]) == 3, token
    stopped = chat.invoke(MESSAGES, stop=[whole.content[1:3]]).content
    assert whole.content.startswith(stopped) and whole.content[1:3] not in stopped, (whole.content, stopped)


def completions(settings):
    model = OpenAI(**settings, temperature=0.7, seed=3, max_tokens=12, top_p=0.9)
    whole = model.invoke("Once upon a time")
    assert "".join(model.stream("Once upon a time")) == whole
    several = model.generate(["Once", "Upon", "Once"])
    texts = [generations[0].text for generations in several.generations]
    assert texts[0] == texts[2] != texts[1], texts
    assert several.llm_output["token_usage"]["completion_tokens"] > 0, several.llm_output


def errors(settings):
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    refused = {
        ("param", "tools"): lambda: ChatOpenAI(**settings).bind_tools([add]).invoke("1 + 1"),
        ("code", "model_not_found"): lambda: ChatOpenAI(**{**settings, "model": "another"}).invoke("a"),
        ("code", "context_length_exceeded"): lambda: ChatOpenAI(**settings).invoke("long " * 5_000),
    }
    for (field, value), call in refused.items():
        try:
            call()
        except openai.APIStatusError as error:
            assert error.status_code in (400, 404) and error.body[field] == value, error.body
        else:
            raise AssertionError(f"not refused by {value}")


def main():
    base = sys.argv[1]
    with urllib.request.urlopen(base + "/models") as answer:
        model = json.load(answer)["data"][0]["id"]
    settings = dict(base_url=base, api_key="none", model=model, max_retries=0)
    chats(settings)
    completions(settings)
    errors(settings)
    print("chats, completions and errors are as langchain-openai wants them")


main()
