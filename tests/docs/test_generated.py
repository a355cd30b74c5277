"""The generated parts of the reference are what the code says today."""

from pathlib import Path

import pytest

from docs.generate import DOCS, PARTS, fill, generated_pages
from faceid import NextStep


@pytest.mark.parametrize("page", generated_pages(), ids=lambda page: page.stem)
def test_a_page_is_up_to_date(page: Path):
    text = page.read_text()
    assert fill(text) == text, f"{page.relative_to(DOCS.parent)} is stale: run make docs"


def test_every_part_is_in_a_page():
    texts = "".join(page.read_text() for page in generated_pages())
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in texts] == []


def test_a_stale_part_is_noticed(tmp_path: Path):
    stale = "# A page\n\n<!-- generated: faults -->\n\nnothing\n\n<!-- end -->\n"
    filled = fill(stale)
    assert "`commit-then-reset`" in filled
    assert fill(filled) == filled


@pytest.mark.parametrize("step", NextStep)
def test_a_next_step_is_found_by_its_name_and_by_what_is_printed(step: NextStep):
    errors = (DOCS / "reference" / "outcomes-and-errors.md").read_text()
    assert f"| `{step.name}` | {step} |" in errors
    assert f"`{step.name}`" in (DOCS / "reference" / "python.md").read_text()
