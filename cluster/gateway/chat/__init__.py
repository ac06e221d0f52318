"""Chat clients that already exist, against actors."""
