"""From a folder to samples: finding scans, reading, checking, preprocessing, caching."""
