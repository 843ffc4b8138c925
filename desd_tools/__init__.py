"""What a person runs: `desd COMMAND`. Nobody imports it."""
