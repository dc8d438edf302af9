"""Hooks of mkdocs: the measured tables become pages of the site, and what docs/ says of them becomes links.

In the repository docs/ links to `../benchmarks/...`, which works wherever Markdown is shown. On the site the tables
lie under `benchmarks/`, so here such links lose the step up. A path of a table in backticks becomes a link. Formulas
between dollars are turned into HTML (tools/formulas.py), because nothing is fetched when a page is read.
"""

import re
from pathlib import Path
from typing import Any

from formulas import formulas_to_html
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_NAMED = re.compile(r"(?<!\[)`(benchmarks/[\w./-]+)`")
_CODE = re.compile(r"(^ *```.*?^ *```)", flags=re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Adds the tables and charts of benchmarks/ to the site."""
    for path in sorted((ROOT / "benchmarks").rglob("*")):
        if path.suffix in (".md", ".svg"):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File(uri, str(ROOT), config.site_dir, use_directory_urls=False))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """The text of a page with links to tables that lead somewhere on the site, and formulas as HTML."""
    up = "../" * page.file.src_uri.count("/")
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):  # what lies between blocks of code
        text = parts[i].replace(f"]({up}../benchmarks/", f"]({up}benchmarks/")
        text = _NAMED.sub(lambda found: _linked(found[1], up, files), text)
        parts[i] = formulas_to_html(text)
    return "".join(parts)


def _linked(name: str, up: str, files: Files) -> str:
    """`name` as a link if it is a table or a folder with one, else as it was."""
    for uri in (name, f"{name}/results.md"):
        if uri.endswith(".md") and files.get_file_from_path(uri):
            return f"[`{name}`]({up}{uri})"
    return f"`{name}`"
