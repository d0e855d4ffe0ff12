"""Brings files of the repository into the site as pages, and links between them; mkdocs calls `on_files` and
`on_page_markdown`. Links in Markdown are those of the repository, so that they work there, too."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {  # of the site: the file
    "project/changelog.md": "CHANGELOG.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "reproduce/results.md": "RESULTS.md",
    "reproduce/gpu-bench.md": "programs/gpu_bench/README.md",
}
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?![a-z]+:|#)([^)\s]+)\)")


def on_files(files: Files, config) -> Files:
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    return linked(markdown, page.file.src_uri)


def linked(text: str, page: str) -> str:
    """A page's text, its links as seen from the page; a link out of the site becomes its text."""
    pages = {source: name for name, source in PAGES.items()}

    def from_page(link: re.Match) -> str:
        path, hash, anchor = link[3].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(PAGES.get(page, f"docs/{page}")), path))
        if path not in pages and not path.startswith("docs/"):
            return link[2]
        to = posixpath.relpath(pages.get(path, path.removeprefix("docs/")), posixpath.dirname(page) or ".")
        return f"{link[1]}[{link[2]}]({to}{hash}{anchor})"

    return LINK.sub(from_page, text)
