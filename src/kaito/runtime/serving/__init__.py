"""What the process serves: probes, metrics, webhooks, and the certificates for them."""
