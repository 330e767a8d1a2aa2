"""What this process knows of the cluster: reflectors keep stores in step with the server, readers hold listers."""
