"""One connection: requests are read from it, responses are sent on it."""
