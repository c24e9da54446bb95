"""What becomes of live frames: one encoding of them, and the files, playlists and servers that its packets go to."""
