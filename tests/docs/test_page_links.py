"""Links of README and docs lead somewhere: files that exist, and headings that are there."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT, files, pages

_LINK = re.compile(
    r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)|^\[[^\]]+\]: (?P<reference>\S+)", re.MULTILINE
)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def links(page: Path) -> set[str]:
    found = _LINK.finditer(_CODE.sub("", page.read_text()))
    return {match["target"] or match["reference"] for match in found}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    tracked = files()
    folders = {str(parent) for name in tracked for parent in Path(name).parents}
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        name = str(target.relative_to(ROOT))
        assert name in tracked or name in folders, f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_reached_from_the_readme():
    reached, left = set[Path](), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links(page):
            path = link.partition("#")[0]
            if path and "://" not in path and path.endswith(".md"):
                left.append((page.parent / path).resolve())
    assert {page for page in pages() if "docs" in page.parts} <= reached
