"""What the proxy reports: records, metrics, logs and the admin interface."""
