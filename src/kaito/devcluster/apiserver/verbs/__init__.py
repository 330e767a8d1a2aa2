"""What is done with objects: reading, watching, writing, deleting."""
