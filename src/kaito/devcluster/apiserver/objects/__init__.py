"""What an object is: the resources that are served, their kinds, metadata and selectable fields."""
