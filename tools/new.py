"""Writes the file of a new method and its test; both fail until they are filled in.

Usage: python tools/new.py METHOD_ID --kind score|allocation|pattern|schedule|solver|method [--root FOLDER]
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).resolve().parent / "templates"
FOLDERS = {
    "score": "scores",
    "allocation": "allocations",
    "pattern": "patterns",
    "schedule": "schedules",
    "solver": "solvers",
    "method": "pruning",
}


def fill(template: str, id: str) -> str:
    """The template with the id, the module's name and the class's name put in."""
    module = id.replace("-", "_")
    named = "".join(part.capitalize() for part in id.split("-"))
    return template.replace("METHOD_ID", id).replace("METHOD_MODULE", module).replace("METHOD_CLASS", named)


def scaffold(id: str, kind: str, root: Path = ROOT) -> list[Path]:
    """Writes source and test under `root`; refuses a bad id and never overwrites a file."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", id):
        raise SystemExit(f"new: {id!r} is no id; use the paper's name in lower-case words joined by dashes: input-norm")
    module = id.replace("-", "_")
    targets = {
        root / "src" / "rarefy" / FOLDERS[kind] / f"{module}.py": TEMPLATES / f"{kind}.txt",
        root / "tests" / FOLDERS[kind] / f"test_{module}.py": TEMPLATES / f"{kind}_test.txt",
    }
    for target in targets:
        if target.exists():
            raise SystemExit(f"new: {target.relative_to(root)} exists; choose another id or edit that file")
    for target, template in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fill(template.read_text("utf-8"), id), "utf-8")
    return list(targets)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Writes the file of a new method and its test.")
    parser.add_argument("id", help="the name that users type, lower case with dashes")
    parser.add_argument("--kind", required=True, choices=sorted(FOLDERS))
    parser.add_argument("--root", type=Path, default=ROOT, help="where src/ and tests/ lie (default: this checkout)")
    chosen = parser.parse_args(arguments)
    source, test = scaffold(chosen.id, chosen.kind, chosen.root)
    print(f"""Written:
  {source.relative_to(chosen.root)}
  {test.relative_to(chosen.root)}

Next:
  1. Fill in what is marked FILL IN: the formula with its source first, then the code (usually ten lines).
  2. Write the method's own check in the test. It must fail for the impostor that is named there already.
  3. make test TEST_ARGS="{test.relative_to(chosen.root)} tests/contracts"   (contracts test it for free)
  4. make index, then make check.""")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
