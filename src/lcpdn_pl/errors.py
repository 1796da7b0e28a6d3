"""The package's own errors: each message names what was found, what was expected and the remedy."""


class LCPDNError(Exception):
    """Base of every error that the user, not the developer, can mend.

    The command line prints its message without a traceback.
    """


class ConfigError(LCPDNError, ValueError):
    """A setting is out of range, or contradicts another one or the data."""


class DataError(LCPDNError):
    """An image, mask, report table, manifest or split is not as the layout promises."""


class WeightsError(LCPDNError):
    """A backbone's weights are missing, unreadable or of another architecture."""


class RunError(LCPDNError):
    """A run cannot go on, or runs of a grid failed."""


class CheckpointError(LCPDNError):
    """A checkpoint is missing, torn, or contradicted by an explicit argument."""
