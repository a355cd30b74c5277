"""The flags that ``faceid deliver`` and ``faceid batch`` have in common."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from deployments.commands.block_settings import block_settings
from faceid.errors import InvalidInput
from faceid.models import MAX_WINDOWS
from tasks.settings import DeliverySettings


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DeliveryFlags:
    """The common flags, with the same names and meanings as the flows' parameters."""

    credentials: Annotated[
        str,
        Parameter(
            help="Name of a tencent-credentials block in Prefect. If omitted, the environment is "
            "used."
        ),
    ] = ""
    save_files_to: Annotated[
        str, Parameter(help="Folder for the files that the answers link to.")
    ] = ""
    max_windows: Annotated[
        int,
        Parameter(
            help="How many windows of two hours a request may use. Its files are uploaded again in "
            "each."
        ),
    ] = 12
    on_unknown_outcome: Annotated[
        Literal["call_again", "stop"],
        Parameter(
            help="What to do when an action was called and no answer came. Calling again may be "
            "billed again."
        ),
    ] = "call_again"

    def load_settings(self) -> DeliverySettings:
        """Return the settings of the environment, overridden by those of the block.

        Raises the errors of ``block_settings``, and ``InvalidInput`` if a flag's value is invalid.
        """
        if not 1 <= self.max_windows <= MAX_WINDOWS:
            raise InvalidInput("InvalidRequest", f"--max-windows must be 1 to {MAX_WINDOWS}")
        return block_settings(self.credentials)

    def arguments(self) -> dict[str, Any]:
        """Return the flags as parameters of the flow."""
        return asdict(self)


DEFAULT_FLAGS = DeliveryFlags()
"""The flags with their default values."""
