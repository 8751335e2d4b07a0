"""Do the claims of the papers hold? Declared claims in, one verdict each out; torch-free."""
