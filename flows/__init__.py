"""Where and when: Prefect flows, Dask, and the command line over the plain packages."""
