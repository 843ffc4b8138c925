"""What a person runs: ``python -m desd_components COMMAND``. The core never imports this package."""
