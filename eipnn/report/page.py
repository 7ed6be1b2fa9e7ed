"""Where the files of a report go, and the report as one self-contained HTML page."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markdown import markdown

from eipnn.files import write_atomically

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; display: block; overflow-x: auto }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; white-space: nowrap }
thead th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto }
code { background: #f3f3f3; padding: 0 0.2rem }
h2 { border-top: 2px solid #ddd; padding-top: 1rem; margin-top: 3rem }
</style>
</head>
<body>
BODY
</body>
</html>
"""


@dataclass(frozen=True)
class Output:
    """Pictures and tables beside a Markdown file, in an existing folder that the file links to as ``link/``."""

    folder: Path
    link: str = ""

    def csv(self, name: str, table: pd.DataFrame) -> None:
        """Write a table."""
        write_atomically(self.folder / f"{name}.csv", table.to_csv(index=False))

    def picture(self, name: str, text: str, draw: Callable[..., None], *shown: Any) -> str:
        """Draw ``draw(file, *shown)``; the Markdown that shows it."""
        draw(self.folder / f"{name}.png", *shown)
        return f"![{text}]({self.link}{name}.png)"


def html_page(text: str, folder: Path, title: str = "eipnn report") -> str:
    """Markdown as HTML with its pictures inside, which are PNG files relative to `folder`.

    Raises:
        OSError: a picture is not there.
    """

    def embedded(found: re.Match[str]) -> str:
        content = base64.b64encode((folder / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(r'src="([^"]+\.png)"', embedded, markdown(text, extensions=["tables", "sane_lists"]))
    return PAGE.replace("TITLE", title).replace("BODY", body)
