"""One file a dataset format; each turns files on disk into an `EpisodeStore`."""
