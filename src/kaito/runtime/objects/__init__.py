"""What an object is: its resource and codec, its metadata, selectors over it, and the events of its life."""
