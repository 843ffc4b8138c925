"""`desd phantom`: synthetic patients with organs and lesions."""
