"""`desd check`: the faults of a folder of scans, and settings that fit it."""
