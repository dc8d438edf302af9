"""Real text cut into passages, and the split that keeps what is measured apart from what is learnt from."""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rarefy.core.errors import DataError

_RULE = re.compile(r"([=*~^+'\"-])\1{3,}")
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")  # how their classes' names end
Count = Callable[[str], int]  # how many tokens a word has


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, white space made single, underlines of headings and ruled lines left out."""
    return [clean for part in re.split(r"\n\s*\n", text) if (clean := " ".join(_words(part)))]


def _words(part: str) -> list[str]:
    return [word for word in part.split() if not _RULE.fullmatch(word)]


def topics() -> list[list[str]]:
    """The paragraphs of each help topic that every CPython carries, each paragraph at its first place only.

    The topics repeat whole sections of each other; left in, the same words would be learnt from and measured on.
    """
    from pydoc_data.topics import topics as texts

    seen: set[str] = set()
    found = []
    for name in sorted(texts):
        parts = list(dict.fromkeys(paragraphs(texts[name])))
        found.append([part for part in parts if part not in seen])
        seen.update(parts)
    return found


def cut(parts: Sequence[str], count: Count, low: int = 60, high: int = 120) -> list[str]:
    """Passages of about `low` to `high` tokens from consecutive paragraphs; scraps below 24 tokens are dropped."""
    found: list[str] = []
    words: list[str] = []
    size = 0
    for paragraph in parts:
        for word in paragraph.split(" "):
            more = count(word)
            if words and size + more > high:
                found.append(" ".join(words))
                words, size = [], 0
            words.append(word)
            size += more
        if size >= low:
            found.append(" ".join(words))
            words, size = [], 0
    if size >= 24:
        found.append(" ".join(words))
    return found


def topic_passages(count: Count) -> list[str]:
    """All passages of the help topics, in order; no passage crosses from one topic into the next."""
    return list(dict.fromkeys(passage for parts in topics() for passage in cut(parts, count)))


@dataclass(frozen=True)
class Split:
    """Passages to calibrate and recover with, and others, never seen before, to measure with."""

    train: tuple[str, ...]
    evaluation: tuple[str, ...]


def split(passages: Sequence[str], evaluation: int, seed: int = 0, extra: Sequence[str] = ()) -> Split:
    """Holds `evaluation` passages back, chosen by `seed` (a quarter of all, at most); `extra` is only learnt from.

    A passage that occurs twice is in one part only, and a passage that shares a run of 13 words with one that is
    held back is in neither: what is measured on must be new.
    """
    unique = list(dict.fromkeys(passages))
    if len(unique) < 2:
        raise DataError(
            f"text: {len(unique)} different passage(s); give at least 2, so that quality is measured on unseen text"
        )
    held = min(evaluation, max(1, len(unique) // 4))
    order = list(range(len(unique)))
    random.Random(seed).shuffle(order)
    unseen = tuple(unique[i] for i in order[:held])
    kept_apart = set().union(*map(runs, unseen))
    rest = dict.fromkeys([*(unique[i] for i in order[held:]), *extra])
    train = tuple(passage for passage in rest if kept_apart.isdisjoint(runs(passage)) and passage not in unseen)
    if not train:
        raise DataError("text: every passage shares a run of 13 words with the others; give more varied text")
    return Split(train, unseen)


def runs(passage: str, length: int = 13) -> set[tuple[str, ...]]:
    """All runs of `length` words of a passage; a shorter passage has none."""
    words = passage.split()
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def read_passages(path: Path) -> list[str]:
    """The passages of a UTF-8 text file, one a line; empty lines are passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"--data: {path} does not exist; give a text file with one passage a line") from None
    except IsADirectoryError:
        raise DataError(f"--data: {path} is a folder; give a text file with one passage a line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"--data: {path} is not UTF-8 text ({error}); convert it first") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise DataError(f"--data: {path} has no text; give a file with one passage a line")
    return found


def counter(tokenize: Callable[[str], Iterable[object]]) -> Count:
    """Token counts of words, each word looked up once."""
    known: dict[str, int] = {}

    def count(word: str) -> int:
        if word not in known:
            known[word] = len(list(tokenize(word)))
        return known[word]

    return count
