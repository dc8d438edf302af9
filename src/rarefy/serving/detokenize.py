"""From tokens, as they come, to text that will not change any more, up to the first stop string."""

from collections.abc import Callable, Sequence

_CUT = "\ufffd"  # what decoders write for the first bytes of a character that is not complete yet


class Words:
    """The text of tokens that come one by one.

    decode: ids to text. Ids are decoded together with those just before them, because a token's text may depend on
    what precedes it; `stops` end the text and are not part of it. What could be the beginning of a stop string, or of a
    character, is held back until that is certain.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._ids: list[int] = []
        self._before = self._read = 0  # ids that only give context; ids whose text is known
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain after one more token; "" after a stop string was found."""
        self._ids.append(token)
        known = self._decode(self._ids[self._before : self._read])
        whole = self._decode(self._ids[self._before :])
        if len(whole) > len(known) and not whole.endswith(_CUT):
            self._held += whole[len(known) :]
            self._before, self._read = self._read, len(self._ids)
        return self._certain()

    def end(self) -> str:
        """The rest, when no token follows."""
        if self.stopped:
            return ""
        known = self._decode(self._ids[self._before : self._read])
        self._held += self._decode(self._ids[self._before :])[len(known) :]
        self._read = len(self._ids)
        self._before = self._read
        found = self._certain()
        if not self.stopped:
            found, self._held = found + self._held, ""
        return found

    def _certain(self) -> str:
        if self.stopped:
            return ""
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            found, self._held = self._held[: min(places)], ""
            return found
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        found, self._held = self._held[:cut], self._held[cut:]
        return found


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
