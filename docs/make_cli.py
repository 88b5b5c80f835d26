"""Write docs/reference/cli.md by Typer's own generator: `python -m docs.make_cli`, which `make docs` runs first.

The page is not in git.
"""

from __future__ import annotations

from pathlib import Path

import typer.main
from typer.cli import get_docs_for_click

from fitserve.cli import app
from fitserve.cli.session import MEANING

PAGE = Path(__file__).parent / "reference" / "cli.md"

_HEAD = """\
# The command line

The server is `--url`, else `FITSERVE_URL`, else `http://127.0.0.1:8000`. The key is `FITSERVE_API_KEY`; for a server
on this machine, its first key is read from `FITSERVE_HOME` (`./fitserve-data`). Every command but `up` and
`migrate` takes `--json`: it then prints one JSON document on standard output (a watched run prints one JSON object a
line), and errors as problem details on standard error. `fitserve --install-completion` sets up the shell's completion.

## Exit codes

| code | meaning |
|---|---|
"""


def page() -> str:
    """Return the page's Markdown."""
    codes = "".join(f"| {code.value} | {text} |\n" for code, text in MEANING.items())
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="fitserve", obj={"TYPER_RICH_MARKUP_MODE": "rich"})
    return f"{_HEAD}{codes}\n{get_docs_for_click(obj=command, ctx=context, name='fitserve', indent=1)}"


if __name__ == "__main__":
    PAGE.write_text(page())
