"""HTTP: the endpoints, the server, its certificates, and faults for tests."""
