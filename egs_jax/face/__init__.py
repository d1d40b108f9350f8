"""Networks that see a face: 478 landmarks, head and body masks."""
