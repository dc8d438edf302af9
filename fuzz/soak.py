"""A day of calls in minutes: compiled models and a server, batch and length ever changing, memory flat, same answers.

    python fuzz/soak.py --seconds 600

A day is 86,400 calls, one a second. What memory would grow by in a day, by the line through the samples, may be no more
than `ALLOWED`; the answer to a fixed call is compared bit for bit with the first one, every so often. Exit status 1.
"""

import argparse
import gc
import json
import os
import random
import resource
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src"), str(ROOT / "tests" / "engine" / "decoder")]
_CACHE = tempfile.TemporaryDirectory(prefix="rarefy-soak-")
os.environ["RAREFY_CACHE_DIR"] = _CACHE.name

import torch
from torch import Tensor

import rarefy
from convnets import Small, prepared
from engine.decoder.language_models import build, compiled, tokens
from engine.program.conftest import encoder, inputs
from rarefy.ops import native
from rarefy.serving.limits import Limits
from rarefy.serving.model import How
from rarefy.serving.run import desk_of, server_of
from serving.tiny import write_writer

DAY = 86_400  # calls
ALLOWED = 16 * 2**20  # bytes a day
WARM = 0.25  # of the samples are left out: allocators and caches fill
SAMPLES = 400
Make = Callable[[random.Random], Any]


def convnet() -> Make:
    """Batches of 1 to 4, images of three sizes."""
    model = prepared(Small())
    fast = rarefy.compile(model, [torch.randn(1, 3, 31, 31), torch.randn(4, 3, 31, 31)], measure=False)
    return lambda rng: fast(torch.full((rng.randint(1, 4), 3, *[rng.choice((31, 23, 40))] * 2), rng.random()))


def bert() -> Make:
    """Batches of 1 to 6, 1 to 60 tokens."""
    fast = rarefy.compile(encoder("bert"), [inputs("bert", 1, 20), inputs("bert", 4, 40)], measure=False)
    return lambda rng: fast(**inputs("bert", rng.randint(1, 6), rng.randint(1, 60), rng.randrange(99)))[0]


def decoder() -> Make:
    """Prompts of 1 to 3 rows and 1 to 40 tokens, 1 to 8 new ones."""
    fast = compiled(build("llama"))

    def call(rng: random.Random) -> Any:
        ids = tokens(rng.randint(1, 3), rng.randint(1, 40), rng.randrange(99))
        return fast.generate(ids, max_new_tokens=rng.randint(1, 8), do_sample=False)

    return call


def served() -> Make:
    """A server of this process; prompts of 1 to 60 bytes, some streamed."""
    place = Path(tempfile.mkdtemp(dir=_CACHE.name))
    folder = write_writer(place / "words", place / "tiny")
    desk = desk_of(folder, "tiny", Limits(new_tokens=64, active=4, queue=16), How(measure=False))
    server = server_of(desk, "127.0.0.1", 0, "error")
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def call(rng: random.Random) -> str:
        body = {"model": "tiny", "prompt": "a" * rng.randint(1, 60), "max_tokens": rng.randint(1, 8), "temperature": 0}
        body["stream"] = streamed = rng.random() < 0.3
        said = json.dumps(body).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", said, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            text: str = answer.read().decode()
        return "streamed" if streamed else json.loads(text)["choices"][0]["text"]

    return call


WORK: dict[str, tuple[Callable[[], Make], int]] = {  # share of the calls
    "convnet": (convnet, 12),
    "encoder": (bert, 12),
    "decoder": (decoder, 4),
    "served": (served, 1),
}


@dataclass
class Watch:
    """Samples of (calls, resident bytes), and the native objects at the warm moment and at the end."""

    samples: list[tuple[int, int]] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def sample(self, calls: int) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        self.samples.append((calls, pages * resource.getpagesize()))
        module = native.module()
        self.objects.append(0 if module is None else module.live_objects())

    @property
    def warm(self) -> list[tuple[int, int]]:
        return self.samples[int(WARM * len(self.samples)) :]

    def a_day(self) -> float:
        """Bytes by which the line through the warm samples rises in a day."""
        return slope(self.warm) * DAY


def slope(samples: list[tuple[int, int]]) -> float:
    """Of the least squares line."""
    n = len(samples)
    middle = [sum(column) / n for column in zip(*samples, strict=True)]
    spread = sum((x - middle[0]) ** 2 for x, _ in samples)
    return sum((x - middle[0]) * (y - middle[1]) for x, y in samples) / spread if spread else 0.0


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def soak(seconds: float, only: list[str], watch: Watch) -> dict[str, int]:
    """Calls by name."""
    makes = {name: make() for name, (make, _) in WORK.items() if name in only}
    shares = [WORK[name][1] for name in makes]
    rng, counts = random.Random(0), dict.fromkeys(makes, 0)
    with torch.inference_mode():
        first = {name: call(random.Random(1)) for name, call in makes.items()}
        end, every = time.monotonic() + seconds, seconds / SAMPLES
        due = time.monotonic() + every
        while (now := time.monotonic()) < end:
            for name in rng.choices(list(makes), shares, k=50):
                makes[name](rng)
                counts[name] += 1
            if now >= due:
                due = now + every
                name = rng.choice(list(makes))
                if not same(makes[name](random.Random(1)), first[name]):
                    watch.wrong.append(f"{name}: another answer to the first call, after {sum(counts.values())} calls")
                watch.sample(sum(counts.values()))
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--only", nargs="*", choices=WORK, default=list(WORK))
    given = parser.parse_args()
    torch.set_num_threads(1)
    watch = Watch()
    counts = soak(given.seconds, given.only, watch)
    total, mib = sum(counts.values()), 2**20
    print(f"soak: {total} calls in {given.seconds:.0f} s, {total / DAY:.2f} days at one call a second: {counts}")
    warm = [size for _, size in watch.warm]
    print(
        f"soak: resident {warm[0] / mib:.1f} MiB warm, {warm[-1] / mib:.1f} at the end, {max(warm) / mib:.1f} at most"
    )
    print(
        f"soak: {watch.a_day() / mib:+.2f} MiB a day, {ALLOWED / mib:.0f} allowed; native objects {watch.objects[-1]}"
    )
    if watch.a_day() > ALLOWED:
        watch.wrong.append("memory grows")
    if watch.objects[-1] > watch.objects[int(WARM * len(watch.objects))]:
        watch.wrong.append("native objects are left behind")
    print(*(f"soak: FAILED: {what}" for what in watch.wrong[:9]), sep="\n", end="")
    return 1 if watch.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
