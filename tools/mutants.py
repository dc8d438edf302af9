"""The mutants of a Python source: each is the text with one small fault put in, of kinds that tests should notice.

Comparisons are loosened or tightened, arithmetic and bit operators exchanged, `and` and `or` exchanged, `not`, `-` and
`~` taken away, plain conditions negated, whole numbers moved by one either way, True and False exchanged, results
replaced by None, `break` and `continue` exchanged, ends of slices taken away, calls for their effect left out.

Annotations, docstrings, decorators, texts and everything inside `raise` stay as they are.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARE = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_BINARY = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//", ast.Pow: "*",
    ast.MatMult: "*", ast.LShift: ">>", ast.RShift: "<<", ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "&",
}  # fmt: skip
_TESTED = (ast.Compare, ast.BoolOp, ast.Constant)


@dataclass(frozen=True)
class Mutant:
    """One fault. where: the function or class it lies in; was, becomes: the piece of the source and what replaces it;
    begin, end: its place in the source's bytes; nth: which of the equal faults of `where` it is, from 0."""

    where: str
    line: int
    was: str
    becomes: str
    begin: int
    end: int
    nth: int = 0

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names it although lines move."""
        return self.where, self.was, self.becomes, self.nth

    def applied(self, source: bytes) -> bytes:
        return source[: self.begin] + self.becomes.encode() + source[self.end :]


def mutants(source: bytes) -> list[Mutant]:
    """All of a source, from top to bottom; every one parses and differs from the source."""
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    seen: dict[tuple[str, str, str], int] = {}
    found = []
    for where, node, becomes in _faults(ast.parse(source), "module"):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        was = source[begin:end].decode()
        nth = seen.get((where, was, becomes), 0)
        seen[(where, was, becomes)] = nth + 1
        found.append(Mutant(where, node.lineno, was, becomes, begin, end, nth))
    return sorted(found, key=lambda mutant: (mutant.begin, mutant.end))


def _faults(node: ast.AST, where: str) -> Iterator[tuple[str, ast.AST, str]]:
    """(where, node, text that takes its place)"""
    for child in _children(node):
        inside = where
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inside = child.name if where == "module" else f"{where}.{child.name}"
        for becomes in _replacements(child):
            yield inside, child, becomes
        for tested in _conditions(child):
            yield inside, tested, f"(not ({ast.unparse(tested)}))"
        yield from _faults(child, inside)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node in which a fault is one of the program."""
    skipped = {"annotation", "returns", "decorator_list", "ctx"}
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            spoken = isinstance(child, ast.Raise | ast.JoinedStr) or _is_text(child) or _for_types(child)
            if isinstance(child, ast.AST) and field not in skipped and not spoken:
                yield child


def _is_text(node: object) -> bool:
    """A docstring, or a text that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _for_types(node: object) -> bool:
    """What only a type checker reads."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    named = isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp)
    return named and ast.unparse(node.value).startswith(("Literal[", "Callable[", "Tensor |"))


def _conditions(node: ast.AST) -> Iterator[ast.expr]:
    """Conditions that no other fault turns around."""
    tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else getattr(node, "ifs", [])
    for test in tests:
        plain = not isinstance(test, _TESTED) and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not))
        if plain:
            yield test


def _replacements(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Compare():
            yield from _compared(node)
        case ast.BinOp() if not _of_text(node):
            yield f"({_part(node.left)} {_BINARY[type(node.op)]} {_part(node.right)})"
        case ast.AugAssign():
            yield f"{ast.unparse(node.target)} {_BINARY[type(node.op)]}= {ast.unparse(node.value)}"
        case ast.BoolOp():
            yield "(" + (" or " if isinstance(node.op, ast.And) else " and ").join(map(_part, node.values)) + ")"
        case ast.UnaryOp() if not isinstance(node.op, ast.UAdd):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant():
            yield from _moved(node.value)
        case ast.Return() if node.value is not None and ast.unparse(node.value) != "None":
            yield "return None"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Slice():
            yield from _opened(node)
        case ast.Expr() if isinstance(node.value, ast.Call):
            yield "pass"


def _compared(node: ast.Compare) -> Iterator[str]:
    for i in range(len(node.ops)):
        parts = [_part(node.left)]
        for j, (op, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            parts += [_COMPARE[type(op)] if i == j else _word(op), _part(right)]
        yield "(" + " ".join(parts) + ")"


def _moved(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int):
        yield from (f"{value + 1}", f"({value - 1})")
    elif isinstance(value, float):
        yield f"({value} + 1.0)"


def _opened(node: ast.Slice) -> Iterator[str]:
    lower, upper, step = ("" if part is None else ast.unparse(part) for part in (node.lower, node.upper, node.step))
    tail = f":{step}" if step else ""
    if lower and lower != "0":
        yield f":{upper}{tail}"
    if upper:
        yield f"{lower}:{tail}"


def _of_text(node: ast.BinOp) -> bool:
    """Whether it joins texts."""
    ends = (node.left, node.right)
    return any(isinstance(e, ast.JoinedStr) or (isinstance(e, ast.Constant) and isinstance(e.value, str)) for e in ends)


def _part(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant) else f"({text})"


def _word(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]
