"""One file an action; importing the folder declares them."""
