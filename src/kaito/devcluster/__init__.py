"""The local cluster: what a laptop needs to run kaito without Docker, GPU or cloud."""
