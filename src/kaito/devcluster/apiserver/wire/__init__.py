"""What goes over the wire: requests, media types, replies."""
