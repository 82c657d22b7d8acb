"""What the kernel tells, and does."""
