"""Ring 2: the wire protocols without any I/O: TLS on memory BIOs, the hop preface, the closing table."""
