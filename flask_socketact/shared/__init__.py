"""Memory and files that the processes of a service share."""
