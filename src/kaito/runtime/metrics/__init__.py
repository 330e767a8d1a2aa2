"""Every metric that the runtime reports: counted in plain numbers, made into Prometheus' families when somebody asks."""
