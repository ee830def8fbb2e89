"""What each leak found in the literature adds to an accuracy: one model under the official and leaky protocols."""
