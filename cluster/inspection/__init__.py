"""What a silo tells operators of the actors of its cluster: what is stored, and what waits for a decision."""
