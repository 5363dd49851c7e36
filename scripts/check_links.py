"""Checks that links lead somewhere: in Markdown files as a code host shows them, and on the site.

Nothing is fetched. A relative link must name a file of the repository, its anchor a heading of that
file, and it needs a text of its own, since only the site fills in titles. `--site` checks the pages
that were built instead: every link, picture and anchor, and what the search finds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from sphinx.search.en import SearchEnglish

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "_build" / "html"
# What people search for, and the page that has it.
SEARCHES = {
    "certificate": "guides/certificates",
    "drain": "guides/operate",
    "failed": "guides/troubleshooting",
    "JoinError": "reference/errors",
    "metrics": "guides/observe",
    "retry": "guides/call-a-service",
}
IGNORED = {"genindex.html", "search.html"}


def files() -> list[Path]:
    """Returns the Markdown files of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@cache
def tokens(file: Path) -> list[Token]:
    """Returns the parsed file, its links and headings among the tokens."""
    parser = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6)
    found = []
    for token in parser.parse(file.read_text()):
        found += [token, *(token.children or ())]
    return found


@cache
def anchors(file: Path) -> frozenset[str]:
    """Returns what links may name after `#` in a Markdown file."""
    named = {str(t.attrs["id"]) for t in tokens(file) if t.type == "heading_open"}
    return frozenset(named | set(re.findall(r'<a (?:id|name)="([^"]+)"', file.read_text())))


def problems_of_file(file: Path) -> Iterator[str]:
    """Yields a sentence for each broken link of a Markdown file."""
    found = tokens(file)
    for number, token in enumerate(found):
        target = str(token.attrs.get("href" if token.type == "link_open" else "src", ""))
        if token.type not in {"link_open", "image"} or urlsplit(target).scheme:
            continue
        where = f"{file.relative_to(ROOT)}: {target or 'a link without a target'}"
        if found[number + 1].type == "link_close":
            yield f"{where} has no text, so a code host shows nothing"
        path, _, anchor = unquote(target).partition("#")
        aim = (file.parent / path).resolve() if path else file
        if not aim.is_relative_to(ROOT) or not aim.exists():
            yield f"{where} leads to no file"
        elif anchor and aim.suffix == ".md" and anchor not in anchors(aim):
            yield f"{where} leads to no heading"


class _Page(HTMLParser):
    """The links and anchors of one page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.hides_parameters = "Unpack[" in text or "&lt;factory" in text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src"} and value and tag != "link":
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


def problems_of_site(site: Path) -> Iterator[str]:
    """Yields a sentence for each broken link of the built site."""
    pages = {page.resolve(): _Page(page.read_text()) for page in site.rglob("*.html")}
    if not pages:
        yield f"{site} has no pages; build them with `poe docs`"
    for file, page in pages.items():
        if "_modules" in file.parts:
            continue  # Sphinx links from the sources to names that it does not document
        if page.hides_parameters:
            yield f"{file.relative_to(site)}: a signature does not show its real parameters"
        for link in sorted({link for link in page.links if not urlsplit(link).scheme}):
            parts = urlsplit(link)
            path, anchor = unquote(parts.path), unquote(parts.fragment)
            aim = (file.parent / path).resolve() if path else file
            where = f"{file.relative_to(site)}: {link}"
            if aim.name not in IGNORED and not aim.exists():
                yield f"{where} leads to no file"
            elif anchor and aim in pages and anchor not in pages[aim].anchors:
                yield f"{where} leads to no heading"


def problems_of_search(site: Path) -> Iterator[str]:
    """Yields a sentence for each word that the search of the site does not find where it is."""
    index = json.loads((site / "searchindex.js").read_text()[len("Search.setIndex(") : -1])
    stem = SearchEnglish({}).stem
    for word, page in SEARCHES.items():
        # The search shows first the pages that have the word in a heading.
        headings = {
            index["docnames"][place[0]]
            for title, places in index["alltitles"].items()
            if stem(word.lower()) in map(stem, re.findall(r"\w+", title.lower()))
            for place in places
        }
        if page not in headings:
            yield f"the search for {word!r} does not lead to {page}"


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--site", action="store_true", help="check the built site")
    if parser.parse_args().site:
        site = SITE.resolve()
        problems = [*problems_of_site(site), *problems_of_search(site)]
    else:
        problems = [problem for file in files() for problem in problems_of_file(file)]
    print("\n".join(problems) or "all links lead somewhere")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
