"""From events to reconciles: the work queue, sources of keys, and the controller that runs both."""
