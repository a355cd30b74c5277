"""Arguments for the ``faceid`` command in tests, and how the command ended."""

from typing import Any, NamedTuple

from tests.sample_request import REQUEST


class Ended(NamedTuple):
    code: int
    out: str
    err: str


DELIVER = {
    "--request-id": REQUEST["request_id"],
    "--action": REQUEST["target_action"],
    "--region": REQUEST["region"],
    "--resource": [f"{field}={location}" for field, location in REQUEST["resources"].items()],
    "--param": [f"{name}={value}" for name, value in REQUEST["action_parameters"].items()],
}


def deliver_tokens(**changes: Any) -> list[str]:
    flags: dict[str, Any] = DELIVER | {f"--{k.replace('_', '-')}": v for k, v in changes.items()}
    tokens = ["deliver"]
    for flag, value in flags.items():
        if value is not None:
            # A value of any type, or a list of such values; they are only passed to str().
            for text in value if isinstance(value, list) else [value]:  # pyright: ignore[reportUnknownVariableType]
                tokens += [flag, str(text)]  # pyright: ignore[reportUnknownArgumentType]
    return tokens
