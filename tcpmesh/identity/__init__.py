"""Ring 1: who somebody is. SPIFFE names, certificates, verification and the embedded authority."""
