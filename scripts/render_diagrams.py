"""Renders docs/diagrams/*.mmd to SVG; `--check` only lists the SVGs that are out of date.

The SVGs are checked in, so the documentation builds and shows them without network or JavaScript.
Rendering needs npm (which fetches Mermaid) and Chromium; a check needs only Python.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "docs" / "diagrams"
RENDERED = ROOT / "docs" / "_static" / "diagrams"
MERMAID = "12.3.0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif"
CONFIG = {
    "startOnLoad": False,
    "deterministicIds": True,
    "htmlLabels": False,
    "theme": "base",
    "fontFamily": FONT,
    "sequence": {
        "actorFontSize": 15,
        "messageFontSize": 14,
        "noteFontSize": 13,
        "actorMargin": 24,
        "width": 112,
        "height": 54,
        "boxMargin": 8,
        "messageMargin": 28,
        "diagramMarginX": 16,
        "diagramMarginY": 12,
        "mirrorActors": False,
        "useMaxWidth": False,
    },
}

# Colours of Mermaid's themes are fixed; these follow the reader's light or dark setting. The
# picture paints its own background, so that it is readable where the page goes by another one.
STYLE = """
svg { --paper: #fbfbfa; --ink: #1b1f24; --soft: #57606a; --box: #e7eefb; --edge: #3b6cb7;
  --note: #fdf3d1; --note-edge: #c29a2b; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #1a1d21; --ink: #e6e8ea; --soft: #a4acb5; --box: #24344d; --edge: #7fa8e6;
    --note: #3d3418; --note-edge: #c9a94e; }
}
svg * { filter: none !important; }
svg .paper { fill: var(--paper) !important; stroke: none !important; }
svg text, svg tspan { fill: var(--ink) !important; stroke: none !important; }
svg .actor, svg .node rect { fill: var(--box) !important; stroke: var(--edge) !important; }
svg .package rect { fill: var(--edge) !important; }
svg .package text, svg .package tspan { fill: var(--paper) !important; }
svg text.actor, svg text.actor tspan, svg .package tspan { font-weight: 600; }
svg .actor-line { stroke: var(--soft) !important; stroke-width: 1px; opacity: 0.6; }
svg .messageText, svg .loopText, svg .loopText tspan {
  paint-order: stroke; stroke: var(--paper) !important; stroke-width: 5px; }
svg .messageLine0, svg .messageLine1 { stroke: var(--ink) !important; fill: none !important; }
svg marker path, svg marker circle, svg marker polygon {
  fill: var(--ink) !important; stroke: var(--ink) !important; }
svg .note { fill: var(--note) !important; stroke: var(--note-edge) !important; }
svg .loopLine { stroke: var(--soft) !important; fill: none !important; }
svg .labelBox { fill: var(--box) !important; stroke: var(--soft) !important; }
"""

PAGE = """<!doctype html><meta charset="utf-8"><body><script src="{script}"></script><script>
(async () => {{
  mermaid.initialize({config});
  for (const [name, text] of Object.entries({sources})) {{
    const out = document.createElement("pre");
    out.id = name;
    try {{ out.textContent = (await mermaid.render("diagram-" + name, text)).svg; }}
    catch (error) {{ out.textContent = "ERROR " + error; }}
    document.body.append(out);
  }}
}})();
</script>"""


def digest(source: Path) -> str:
    """Returns what an SVG names its source by."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def rendered(source: Path) -> Path:
    """Returns where the SVG of a source is."""
    return RENDERED / f"{source.stem}.svg"


def stale() -> list[str]:
    """Returns a sentence for each SVG that does not fit its source, and for each without one."""
    sources = sorted(SOURCES.glob("*.mmd"))
    problems = [
        f"{source.name} was changed; run scripts/render_diagrams.py"
        for source in sources
        if not rendered(source).exists() or digest(source) not in rendered(source).read_text()
    ]
    orphans = set(RENDERED.glob("*.svg")) - {rendered(source) for source in sources}
    return problems + [f"{orphan.name} has no source; delete it" for orphan in sorted(orphans)]


def render(sources: list[Path], scratch: Path) -> dict[str, str]:
    """Draws the sources in a headless browser; returns the SVGs by name."""
    npm, browser = shutil.which("npm"), next(filter(None, map(shutil.which, BROWSERS)), None)
    if npm is None or browser is None:
        raise SystemExit(f"rendering needs npm and one of {', '.join(BROWSERS)}; install them")
    install = [npm, "install", "--silent", "--no-save", f"--prefix={scratch}", f"mermaid@{MERMAID}"]
    subprocess.run(install, check=True)
    page = scratch / "page.html"
    page.write_text(
        PAGE.format(
            script=(scratch / "node_modules/mermaid/dist/mermaid.min.js").as_uri(),
            config=json.dumps(CONFIG),
            sources=json.dumps({source.stem: source.read_text() for source in sources}),
        )
    )
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
        *("--disable-background-networking", "--virtual-time-budget=60000", "--dump-dom"),
        page.as_uri(),
    ]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    found = re.findall(r'<pre id="([\w-]+)">(.*?)</pre>', dom, re.DOTALL)
    return {name: html.unescape(text) for name, text in found}


def finished(svg: str, source: Path) -> str:
    """Gives an SVG its background, colours and the digest of its source."""
    if not svg.startswith("<svg"):
        raise SystemExit(f"{source.name}: {svg or 'the browser drew nothing'}")
    head, rest = svg.split(">", 1)
    x, y, width, height = re.search(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', head).groups()  # type: ignore[union-attr]  # all have one
    size = f'width="{float(width):.0f}" height="{float(height):.0f}"'
    head = re.sub(r' (?:width|height|style)="[^"]*"', "", head)
    paper = f'<rect class="paper" x="{x}" y="{y}" width="{width}" height="{height}"/>'
    comment = f"<!-- docs/diagrams/{source.name} {digest(source)} -->"
    body = rest.replace("<br>", "<br/>").replace("&nbsp;", "\u00a0")
    body = body.replace("</svg>", f"<style>{STYLE}</style></svg>")
    return f"{comment}\n{head} {size}>{paper}{body}\n"


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a stale SVG")
    if parser.parse_args().check:
        problems = stale()
        print("\n".join(problems) or "all diagrams are up to date")
        return 1 if problems else 0
    sources = sorted(SOURCES.glob("*.mmd"))
    with tempfile.TemporaryDirectory() as scratch:
        drawn = render(sources, Path(scratch))
    RENDERED.mkdir(parents=True, exist_ok=True)
    for source in sources:
        rendered(source).write_text(finished(drawn.get(source.stem, ""), source))
        print(f"{rendered(source).relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
