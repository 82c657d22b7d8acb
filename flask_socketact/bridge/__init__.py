"""What the workers and the Flask extension know of each other; neither imports the other."""
