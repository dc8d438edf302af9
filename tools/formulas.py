"""The formulas of docs/ (LaTeX between dollars) as HTML: italics, subscripts, superscripts, fractions with a slash.

Only what the pages use is known; anything else is an error that names the command, so that no page shows raw LaTeX.
"""

import re
from collections.abc import Iterator
from html import escape

_SYMBOLS = {
    "alpha": "α", "beta": "β", "delta": "δ", "epsilon": "ε", "lambda": "λ", "mu": "μ", "phi": "φ", "Phi": "Φ",
    "rho": "ρ", "tau": "τ", "Gamma": "Γ", "sum": "∑", "partial": "∂", "cdot": "·", "sim": " ~ ", "leftarrow": " ← ",
    "langle": "⟨", "rangle": "⟩", "ln": "ln", "tanh": "tanh", "max": "max", "min": "min", "le": " ≤ ", "ge": " ≥ ",
    "times": "×", "eta": "η", "sigma": "σ", "theta": "θ",
}  # fmt: skip
_SPACES = {",": " ", ";": " ", " ": " ", "!": "", "{": "{", "}": "}", "_": "_", "|": "‖", "%": "%"}
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|([{}^_])|([A-Za-z])|(\s+)|(.)", flags=re.S)
_FORMULA = re.compile(r"(?<![\\$`\w])\$(?![\s$])([^$`]+?)(?<!\s)\$(?![\d$])")
_INLINE = re.compile(r"(`[^`\n]*`)")


def formulas_to_html(text: str) -> str:
    """The text with every `$...$` outside of code as HTML."""
    parts = _INLINE.split(text)
    joined = "".join(p if i % 2 == 0 else f"\x00{i}\x00" for i, p in enumerate(parts))
    made = _FORMULA.sub(lambda found: f'<span class="formula">{html(found[1])}</span>', joined)
    return re.sub(r"\x00(\d+)\x00", lambda found: parts[int(found[1])], made)


def html(formula: str) -> str:
    """One formula as HTML.

    >>> html(r"w_{ij}^2 / \\\\alpha")
    '<i>w</i><sub><i>i</i><i>j</i></sub><sup>2</sup> / α'
    """
    tokens = iter([m.groups() for m in _TOKEN.finditer(formula)])
    return _sequence(tokens, "")


Token = tuple[str | None, ...]


def _sequence(tokens: Iterator[Token], end: str) -> str:
    """Everything up to `end` ("" is the end of the formula)."""
    made = []
    for token in tokens:
        if end and token[1] == end:
            break
        made.append(_one(token, tokens))
    return "".join(made)


def _argument(tokens: Iterator[Token]) -> str:
    """What a command or a script applies to: a group in braces or one token."""
    token = next(tokens)
    while token[3]:
        token = next(tokens)
    return _sequence(tokens, "}") if token[1] == "{" else _one(token, tokens)


def _one(token: Token, tokens: Iterator[Token]) -> str:
    command, mark, letter, space, other = token
    if command is not None:
        return _command(command, tokens)
    if mark == "{":
        return _sequence(tokens, "}")
    if mark:
        tag = "sup" if mark == "^" else "sub"
        return f"<{tag}>{_argument(tokens)}</{tag}>"
    if letter:
        return f"<i>{letter}</i>"
    if space:
        return " "
    # characters that Markdown would read as marks of its own
    return {"*": "&#42;", "-": "−", "|": "&#124;", "[": "&#91;", "]": "&#93;"}.get(other or "", escape(other or ""))


def _command(name: str, tokens: Iterator[Token]) -> str:
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    if name in _SPACES:
        return _SPACES[name]
    if name == "frac":
        top, bottom = (_wrapped(_argument(tokens)) for _ in range(2))
        return f"{top}/{bottom}"
    if name in ("mathrm", "text", "operatorname"):
        return re.sub(r"</?i>", "", _argument(tokens))
    if name in ("bar", "overline"):
        return f'<span style="text-decoration: overline">{_argument(tokens)}</span>'
    raise ValueError(f"formulas: \\{name} is not known; add it to tools/formulas.py")


def _wrapped(part: str) -> str:
    """In brackets if it is more than one factor."""
    return part if re.fullmatch(r"(<i>\w</i>|[\w.α-ωΑ-Ω])+(<su[bp]>.*?</su[bp]>)?", part) else f"({part})"
