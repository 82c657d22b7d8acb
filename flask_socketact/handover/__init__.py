"""What crosses a restart."""
