"""What only a store behind a network can raise."""


class OutcomeInDoubt(Exception):
    """The store was closed, or its event loop ended, before the database could say whether the operation took effect.

    Neither "done" nor "refused" would be true. Nothing else raises this.
    """
