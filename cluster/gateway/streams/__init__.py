"""The Durable Streams protocol: free-standing streams, and the channels of actors as streams."""
