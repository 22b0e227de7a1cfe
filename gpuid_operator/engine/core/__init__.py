"""What every room of the engine uses: queue, background tasks, options."""
