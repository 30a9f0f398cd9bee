"""Small networks that are trained from nothing in a notebook."""
