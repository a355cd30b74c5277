"""How the console blocks of a page are taken apart."""

from pathlib import Path

import pytest

from tests.docs.pages import Block, Command, blocks


def commands(text: str) -> list[Command]:
    return Block("console", text, how="", line=1).commands()


@pytest.mark.parametrize(
    "command",
    [
        "faceid status r-1",
        "faceid deliver \\\n    --request-id r-1",
        "curl -d '{\n  \"a\": 1\n}'",
        "curl \\\n    -d '[\n]' \\\n    --fail",
        "faceid emulator &  # don't wait",
    ],
)
def test_a_command_continues_after_a_backslash_and_within_quotes(command: str):
    assert commands(f"$ {command}\nprinted\n$ true\n") == [
        Command(command, ("printed",)),
        Command("true", ()),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (("a",), "a\n", True),
        (("a",), "a\nb\n", False),
        (("a ... c",), "a b c\n", True),
        (("...", "c"), "a\nb\nc\n", True),
        (("...", "c"), "a\nb\n", False),
    ],
)
def test_dots_stand_for_anything(shown: tuple[str, ...], printed: str, fits: bool):
    assert Command("true", shown).shows(printed) is fits


def test_a_block_of_a_list_has_its_comment_too(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("1. Do:\n\n   <!-- run: no, why -->\n   ```console\n   $ false\n   ```\n")
    (block,) = blocks(page)
    assert (block.how, block.text) == ("no, why", "$ false\n")
