"""Ring 3: Twisted glue of the data path: transports, TLS legs, the relay, listeners and the connector."""
