"""How the console blocks of a page are taken apart."""

import pytest

from tests.docs.pages import Block, Command


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
