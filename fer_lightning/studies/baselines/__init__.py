"""Published systems and the results measured in this project."""
