"""What is wrong with a data set: copies and what they are worth, no faces, probable label errors."""
