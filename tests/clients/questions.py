"""Questions and texts that scripts of this folder ask a model: words in any order, some choices long, some short, some alike."""

import random

WORDS = "the a fox owl ball park née naïve — 😀 ran said was happy sad and but so then red little went home away 12 ½".split()

# Each fits a window: how longer ones are cut, the harness and `wgpt eval` see differently.
TEXTS = [
    "Once upon a time there was a little girl who had a red ball.",
    "She liked to play in the park. One day she saw a big dog and was sad.",
    "The owl said: “I am an owl.”",
    "naïve — 😀 12 ½",
    "a",
]


def questions():
    """Returns sixty questions, each with its choices and the number of the answer."""
    draw = random.Random(1)
    some = lambda least, most: " ".join(draw.choices(WORDS, k=draw.randint(least, most)))  # noqa: E731
    choices = [[" " + some(1, 6) for _ in range(draw.randint(2, 5))] for _ in range(60)]
    return [dict(context=some(1, 8), choices=all, answer=draw.randrange(len(all))) for all in choices]


def pairs():
    """Returns each context with each of its choices, and once without a context."""
    all = [(question["context"], choice) for question in questions() for choice in question["choices"]]
    return all + [("", choice) for _, choice in all[:10]]
