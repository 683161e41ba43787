"""What keeps a workload from reaching a service: eight layers, looked at from outside or by the running proxy."""
