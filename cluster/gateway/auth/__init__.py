"""Who may do what through the gateway."""

from cluster.gateway.auth.grant import ALL, Grant, Verb, grant_of

__all__ = ["ALL", "Grant", "Verb", "grant_of"]
