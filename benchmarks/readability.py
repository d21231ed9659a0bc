"""Figures of how the source reads: words, comments, lengths.

python -m benchmarks.readability [FOLDER ...]

Function lengths are lines of code, without the docstring, blank lines and comments. A comment line is a line
that holds nothing but a comment. Docstrings are checked by ruff (rules D401 and D205) in `.ci/run`.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDERS = ("labelbeam", "pipeline", "transforms", "deploy")
# Words of speech, which data cannot do, also as parts of names that are joined by underscores.
_SPEECH = re.compile(r"(?<![^\W_])(told|said|says|tell|tells|saying|telling)(?![^\W_])", re.I)


class Source(NamedTuple):
    """Figures of one file.

    Attributes:
      lines: Lines, blank ones included.
      comments: Lines that hold nothing but a comment.
      speech: Words of speech.
      functions: Lines of code of each function.
    """

    lines: int
    comments: int
    speech: int
    functions: list[int]


def read_source(text: str) -> Source:
    """Count the figures of one file."""
    lines = text.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    comments = {t.start[0] for t in tokens if t.type == tokenize.COMMENT and t.line.lstrip().startswith("#")}
    blank = {n for n, line in enumerate(lines, 1) if not line.strip()}
    tree = ast.parse(text)
    functions = [_code_lines(node, comments | blank) for node in ast.walk(tree) if _is_function(node)]
    return Source(len(lines), len(comments), len(_SPEECH.findall(text)), functions)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _code_lines(function: ast.AST, without: set[int]) -> int:
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    lines = {n for node in body for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return len(lines - without)


def files_of(folders: tuple[str, ...]) -> Iterator[Path]:
    """Yield the Python files of folders; links are not followed, because they would count files twice."""
    for folder in folders:
        path = ROOT / folder
        yield from sorted(path.glob("*.py") if folder == "labelbeam" else path.rglob("*.py"))


def main() -> None:
    """Print the figures, and the issue's targets beside them."""
    sources = [read_source(path.read_text("utf-8")) for path in files_of(tuple(sys.argv[1:]) or FOLDERS)]
    lines = sum(source.lines for source in sources)
    functions = [n for source in sources for n in source.functions]
    short = sum(n < 20 for n in functions) / len(functions)
    print(f"files                      {len(sources):,}")
    print(f"lines                      {lines:,}")
    print(f"comment lines              {sum(s.comments for s in sources) / lines:.1%}  (4 to 8 %)")
    print(f"words of speech per 1,000  {1000 * sum(s.speech for s in sources) / lines:.1f}  (at most 1)")
    print(f"functions                  {len(functions):,}")
    print(f"function lines, median     {statistics.median(functions):.0f}  (at most 7)")
    print(f"functions under 20 lines   {short:.0%}  (90 %)")
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    print(f"README lines               {len(readme)}  (at most 150)")


if __name__ == "__main__":
    main()
