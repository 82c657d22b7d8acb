"""The interface between the workers and the Flask extension. Neither imports the other."""
