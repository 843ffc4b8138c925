"""The parts of ``python -m desd_components check``: what a data folder holds, what is wrong with it, what suits it."""
