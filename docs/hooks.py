"""Brings files of the repository into the site as pages; mkdocs calls `on_files`."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

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
        files.append(File.generated(config, page, content=text_of(page, source)))
    return files


def text_of(page: str, source: str) -> str:
    """The file's text, its links as seen from the page; a link out of the site becomes its text."""

    def from_page(link: re.Match) -> str:
        path, hash, anchor = posixpath.join(posixpath.dirname(source), link[3]).partition("#")
        inside = {file: name for name, file in PAGES.items()}.get(path)
        if inside is None and path.startswith("docs/"):
            inside = path.removeprefix("docs/")
        if inside is None:
            return link[2]
        return f"{link[1]}[{link[2]}]({posixpath.relpath(inside, posixpath.dirname(page))}{hash}{anchor})"

    return LINK.sub(from_page, (ROOT / source).read_text(encoding="utf-8"))
