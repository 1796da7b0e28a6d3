"""What the command line needs of whatever it trains."""

from abc import abstractmethod
from typing import ClassVar

from lightning import LightningModule


class Task(LightningModule):
    """A LightningModule that names its runs and says which of its weights are best.

    Attributes:
        monitor: Logged validation figure that chooses the best checkpoint.
        monitor_mode: Whether the best one is the ``max`` or the ``min``.
    """

    monitor: ClassVar[str]
    monitor_mode: ClassVar[str]

    @property
    @abstractmethod
    def method(self) -> str:
        """Name of the method in run folders, ``runs/<dataset>/<method>/<stamp>``."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Rows of the summary that is printed before a run: what is trained, and what is not."""
