"""``/v1/actors/...``: messages to actors, the live tails of their channels, and both over one WebSocket."""
