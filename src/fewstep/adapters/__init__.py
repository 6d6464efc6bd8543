"""Networks of others as denoisers, and the reading that fits what they answer."""
