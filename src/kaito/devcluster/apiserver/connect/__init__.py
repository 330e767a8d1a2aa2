"""Connections that lead through the API server: attach, port-forward and proxy."""
