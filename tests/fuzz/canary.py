"""What files of these tests name, and what no reader of ours may ever import."""


class Sprung:
    """A class to be named."""


def spring(*_args: object) -> None:
    """A function to be named."""
