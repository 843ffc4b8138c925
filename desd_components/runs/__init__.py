"""What surrounds any run: command line, config, log, history, state, resuming, signals."""
