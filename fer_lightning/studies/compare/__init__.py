"""Whether one network, or one recipe, is better than another on the same images."""
