"""Is it learning? Measures, alarms, skipped steps, probes."""
