"""One error for everything that is wrong with a data set, so that one run finds it all."""

from collections.abc import Collection, Mapping, Sequence

from lcpdn_pl.errors import DataError

MOST_LISTED = 20


def listing(items: Collection[str], separator: str = ", ") -> str:
    """Joins `items`: the first 20, and how many more there are."""
    shown = list(items)[:MOST_LISTED]
    more = len(items) - len(shown)
    return separator.join(shown) + (f"{separator}... and {more} more" if more else "")


class Problems:
    """Collects what is wrong by kind, and raises it as one `DataError`."""

    def __init__(self) -> None:
        self._items: dict[str, list[str]] = {}

    @property
    def kinds(self) -> Mapping[str, Sequence[str]]:
        """What was collected: all items by kind."""
        return {kind: items for kind, items in self._items.items() if items}

    def add(self, kind: str, *items: str) -> None:
        """Notes `items` under `kind`, a plural noun such as "images without a mask"."""
        self._items.setdefault(kind, []).extend(items)

    def extend(self, other: "Problems") -> None:
        """Takes over what `other` collected."""
        for kind, items in other._items.items():
            self.add(kind, *items)

    def raise_any(self, where: str, remedy: str) -> None:
        """Raises what was collected, if anything was.

        Args:
            where: The file, folder or table that is wrong and what was expected of it.
            remedy: What the user can do about it, a sentence.

        Raises:
            DataError: Each kind on a line of its own, at most 20 items of it.
        """
        kinds = [f"  {len(items)} {kind}: {listing(items)}" for kind, items in self.kinds.items()]
        if kinds:
            raise DataError("\n".join([f"{where}, found:", *kinds, remedy]))
