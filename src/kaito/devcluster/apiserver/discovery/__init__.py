"""What is served, and the documents that say so: custom resources, discovery, OpenAPI."""
