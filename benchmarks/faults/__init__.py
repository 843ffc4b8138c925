"""`desd faults`: runs that are made sick on purpose, and what is seen of it."""
