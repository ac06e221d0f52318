"""Where things are in etcd."""


class Keys:
    """The keys of one cluster. Everything stands under ``/<cluster>/``."""

    def __init__(self, cluster: str) -> None:
        if not cluster or "/" in cluster or cluster != cluster.strip():
            raise ValueError(f"the cluster name {cluster!r} must not be empty or contain '/' or surrounding space")
        self.root = f"/{cluster}/"
        self.silos = f"{self.root}silos/"
        self.actors = f"{self.root}actors/"
        self.era = f"{self.root}era"
        self.store = f"{self.root}store"
        self.format = f"{self.root}format"

    def silo(self, silo: str) -> str:
        """The record of a member, under its lease."""
        return f"{self.silos}{silo}"

    def name(self, name: str) -> str:
        """Which silo has a name, under that silo's lease."""
        return f"{self.root}names/{name}"

    def actor(self, address: str) -> str:
        """The id of the silo that owns an address."""
        type_name, _, key = address.partition("-")
        return f"{self.actors}{type_name}/{key}"

    def address(self, actor_key: str) -> str:
        """The address of an owner entry."""
        type_name, _, key = actor_key.removeprefix(self.actors).partition("/")
        return f"{type_name}-{key}"
