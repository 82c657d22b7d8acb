"""Where logs go, and what is added to them."""
