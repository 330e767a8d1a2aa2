"""Talking to an API server: configuration, credentials, requests, typed reads and writes, discovery."""
