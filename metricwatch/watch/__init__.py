"""From files on disk to settled snapshots and queued jobs."""
