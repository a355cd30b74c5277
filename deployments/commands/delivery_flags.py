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
    """How requests are delivered."""

    credentials: Annotated[
        str,
        Parameter(
            help="Name of a tencent-credentials block in Prefect; if omitted, the environment's "
            "keys."
        ),
    ] = ""
    save_files_to: Annotated[
        str, Parameter(help="Folder for the files that the answers point to.")
    ] = ""
    max_windows: Annotated[
        int,
        Parameter(
            help="How many two-hour windows a request may use; its files are uploaded again in "
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
        """Return the settings of the environment or the block. Raises as ``block_settings``, and
        ``InvalidInput`` if a flag's value is invalid."""
        if not 1 <= self.max_windows <= MAX_WINDOWS:
            raise InvalidInput("InvalidRequest", f"--max-windows must be 1 to {MAX_WINDOWS}")
        return block_settings(self.credentials)

    def arguments(self) -> dict[str, Any]:
        """Return the flow's parameters of the same names."""
        return asdict(self)


DEFAULT_FLAGS = DeliveryFlags()
