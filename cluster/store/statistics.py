"""What a store has done so far, for metrics and for tests that count instead of timing."""

import msgspec


class StoreStatistics(msgspec.Struct, frozen=True):
    """Counted since the store was opened, by this handle alone: operations that write. Reading ones are not counted.

    ``operations`` were answered, fenced and refused ones included. ``transactions`` were committed. ``largest_group``
    is the highest number of operations that one transaction held.
    """

    operations: int
    transactions: int
    largest_group: int
